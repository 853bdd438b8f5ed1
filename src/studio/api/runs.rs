//! `/api/runs`, `/api/run`, `/api/recipe`, `/api/train`: the theatre.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::plan::recipe_table;
use super::{Answered, Method, Nothing, Refusal, Route, host};
use crate::Result;
use crate::files;
use crate::formats::adapter_file::AdapterFile;
use crate::studio::Studio;
use crate::studio::runs::past::{Past, past};
use crate::studio::runs::{Phase, RECIPE_FILE, RunNow, base_model, newest_checkpoint, tail};
use crate::studio::samples::Sample;
use crate::train::ask::recipe::Field;
use crate::train::lock;
use crate::train::metrics::StepMetrics;
use crate::train::options::Recipe;
use crate::train::prepare::Prepared;
use crate::train::tell::about::About;

pub(super) fn routes() -> Vec<Route> {
    vec![
        host(Method::Get, "/api/runs", runs),
        host(Method::Get, "/api/run", shown_or_named),
        host(Method::Post, "/api/run/show", show),
        host(Method::Get, "/api/recipe", recipe),
        host(Method::Post, "/api/train", train),
        host(Method::Post, "/api/train/check", check),
        host(Method::Post, "/api/train/stop", |studio, _: Nothing| stop(studio, false)),
        host(Method::Post, "/api/train/pause", |studio, _: Nothing| stop(studio, true)),
        host(Method::Post, "/api/train/resume", resume),
    ]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Under {
    /// Where to look; left out: the folder that the studio was started in, and that of the run that is shown.
    under: Option<PathBuf>,
}

fn runs(studio: &Arc<Studio>, asked: Under) -> Answered<Past> {
    let beside = studio.theatre.folder().and_then(|folder| Some(folder.parent()?.to_path_buf()));
    let here = std::env::current_dir().ok();
    Ok(past(&asked.under.map_or_else(|| here.into_iter().chain(beside).collect(), |under| vec![under])))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dir {
    /// Left out: the run that is shown.
    dir: Option<PathBuf>,
}

/// All that is known of a run.
#[derive(Serialize)]
pub struct Run {
    dir: String,
    phase: Phase,
    /// Whether this studio shows it, so that its events are told.
    shown: bool,
    /// Whether it was started from this studio.
    own: bool,
    /// Whether it can go on from here.
    resumable: bool,
    error: Option<Value>,
    log: Vec<String>,
    /// What the run said of itself when it began; `None` for runs of other versions.
    about: Option<About>,
    metrics: Vec<StepMetrics>,
    /// Answers while it trained.
    samples: Vec<Sample>,
    /// Steps that are done but left out of `metrics`, where there are very many.
    thinned: bool,
    /// The recipe, where it was started from a studio.
    recipe: Option<String>,
    checkpoint: Option<CheckpointState>,
    /// The folder, if it has an adapter to open.
    adapter: Option<String>,
    model: Option<String>,
}

#[derive(Serialize)]
struct CheckpointState {
    step: u64,
    dir: String,
}

/// Steps that an answer has at most.
const MOST_STEPS: usize = 20_000;

/// `None`: no run is shown, and none was named.
fn shown_or_named(studio: &Arc<Studio>, asked: Dir) -> Answered<Option<Run>> {
    match asked.dir.is_some() || studio.theatre.folder().is_some() {
        true => run(studio, asked).map(Some),
        false => Ok(None),
    }
}

fn run(studio: &Arc<Studio>, asked: Dir) -> Answered<Run> {
    let shown = studio.theatre.now();
    let dir = asked.dir.or_else(|| shown.as_ref().map(|now| PathBuf::from(&now.dir)));
    let Some(dir) = dir else {
        return Err(Refusal::new(404, "run", "no run is shown", "start one, or name the folder of one: ?dir=..."));
    };
    if !dir.is_dir() {
        let place = dir.display().to_string();
        return Err(Refusal::new(404, &place, "there is no such folder", "name the output folder of a `graftling train`"));
    }
    let now = shown.filter(|now| Path::new(&now.dir) == dir);
    let is_shown = now.is_some();
    let RunNow { phase, own, error, log, .. } = now.unwrap_or_else(|| RunNow {
        dir: dir.display().to_string(),
        phase: if lock::holder(&dir).is_some() { Phase::Running } else { Phase::Idle },
        own: false,
        error: None,
        log: Vec::new(),
    });
    let all = tail::all(&dir);
    let done_steps = all.len();
    let metrics = thinned(all);
    let recipe = files::read_to_string(&dir.join(RECIPE_FILE), files::DESCRIPTION).ok();
    let about = About::read(&dir);
    let done = about.as_ref().is_some_and(|about| metrics.last().is_some_and(|last| last.step >= about.total_steps));
    let checkpoint = newest_checkpoint(&dir).map(|(step, path)| CheckpointState { step, dir: path.display().to_string() });
    Ok(Run {
        phase,
        shown: is_shown,
        own,
        resumable: recipe.is_some() && checkpoint.is_some() && !done && !phase.is_training(),
        error,
        log,
        about,
        thinned: metrics.len() < done_steps,
        metrics,
        samples: Sample::all(&dir),
        recipe,
        checkpoint,
        adapter: AdapterFile::is_in(&dir).then(|| dir.display().to_string()),
        model: base_model(&dir),
        dir: dir.display().to_string(),
    })
}

/// At most [`MOST_STEPS`] of many steps, evenly spread, with the last one, and with all that were evaluated: what those say, no other says.
fn thinned(steps: Vec<StepMetrics>) -> Vec<StepMetrics> {
    let every = steps.len().div_ceil(MOST_STEPS).max(1);
    let last = steps.len().saturating_sub(1);
    let says_more = |step: &StepMetrics| step.eval_loss.is_some() || step.check.is_some();
    let stays = |(at, step): &(usize, StepMetrics)| at % every == 0 || *at == last || says_more(step);
    steps.into_iter().enumerate().filter(stays).map(|(_, step)| step).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Show {
    dir: PathBuf,
}

fn show(studio: &Arc<Studio>, asked: Show) -> Answered<Run> {
    studio.theatre.attach(&asked.dir)?;
    run(studio, Dir { dir: None })
}

/// The form of a recipe.
#[derive(Serialize)]
struct Form {
    fields: Vec<Field>,
    /// What is known already.
    given: Map<String, Value>,
}

fn recipe(studio: &Arc<Studio>, _: Nothing) -> Answered<Form> {
    let mut given = Map::new();
    if let Ok(opened) = studio.opened() {
        given.insert("model".to_string(), Value::String(opened.spec.clone()));
    }
    let free = (1..).map(|number| format!("run-{number}")).find(|name| !Path::new(name).exists());
    given.extend(free.map(|name| ("out".to_string(), Value::String(name))));
    Ok(Form { fields: Recipe::fields(), given })
}

/// The recipe, checked as the command line checks it, and its output folder.
fn read(asked: Map<String, Value>) -> Result<(String, Recipe, PathBuf)> {
    let text = recipe_table(asked)?.to_string();
    let recipe = Recipe::from_toml(&text, Path::new("recipe"))?;
    let out = recipe.clone().resolve()?.out;
    Ok((text, recipe, out))
}

fn train(studio: &Arc<Studio>, asked: Map<String, Value>) -> Answered<Run> {
    let (text, recipe, out) = read(asked)?;
    studio.theatre.start(Some(&text), &out, recipe.resume == Some(true), || studio.jobs.release())?;
    run(studio, Dir { dir: None })
}

fn resume(studio: &Arc<Studio>, _: Nothing) -> Answered<Run> {
    studio.theatre.resume(|| studio.jobs.release())?;
    run(studio, Dir { dir: None })
}

fn stop(studio: &Arc<Studio>, as_pause: bool) -> Answered<Run> {
    studio.theatre.stop(as_pause)?;
    run(studio, Dir { dir: None })
}

/// What `graftling train --dry-run` says of a recipe.
#[derive(Serialize)]
struct Checked {
    /// What the data has, and what of it cannot be used.
    data: String,
    /// What the run would be and need.
    summary: String,
    /// The first records as the model will see them.
    preview: String,
    total_steps: u64,
    parameters: usize,
    /// Bytes on the device, as planned.
    memory: crate::train::memory::Memory,
}

/// Records that are shown.
const PREVIEWED: usize = 3;

fn check(studio: &Arc<Studio>, asked: Map<String, Value>) -> Answered<Checked> {
    let (_, recipe, _) = read(asked)?;
    let options = recipe.resolve()?;
    let opened = studio.opened_for(&options)?;
    let prepared = Prepared::new(options, &opened.model)?;
    Ok(Checked {
        data: prepared.data_reports(),
        summary: prepared.summary(),
        preview: prepared.preview(PREVIEWED, false),
        total_steps: prepared.total_steps,
        parameters: prepared.trained_parameters(),
        memory: prepared.memory(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::answers::Tally;

    #[test]
    fn of_very_many_steps_all_stay_that_were_evaluated_or_asked() {
        let step = |number: u64| StepMetrics {
            eval_loss: (number == 4_001).then_some(1.0),
            check: (number == 4_002).then(Tally::default),
            ..StepMetrics::example(number, 1.0)
        };
        let few: Vec<StepMetrics> = (1..=20_000).map(step).collect();
        assert_eq!(thinned(few.clone()), few);
        let many = thinned((1..=60_000).map(step).collect());
        assert!(many.len() <= MOST_STEPS + 3, "{}", many.len());
        let has = |number: u64| many.iter().any(|step| step.step == number);
        // Of three steps the first one.
        assert!(has(4_000) && has(4_003) && !has(4_004) && has(60_000));
        assert!(has(4_001) && has(4_002));
        assert_eq!(thinned(Vec::new()), []);
    }
}
