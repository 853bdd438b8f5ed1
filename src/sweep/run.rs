//! Trains what is not finished yet. Each run is one of `graftling train` in a folder of its own: killed at any moment, it goes on from its
//! last checkpoint, and ends with the numbers that it would have had.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::arms::{Arm, SweepFile};
use super::budget;
use super::ground::Base;
use super::measure::Yardsticks;
use super::result::{Measures, Plan, RESULTS_FILE, Results, RunResult, write_json};
use super::{pictures, report, run_folder};
use crate::files;
use crate::formats::adapter_file::AdapterFile;
use crate::formats::atomic;
use crate::gpu::Device;
use crate::model::weights::DeviceWeights;
use crate::plan::autotune::Record;
use crate::session::{self, OpenModel, Watch};
use crate::terminal::duration;
use crate::train::Outcome;
use crate::train::interrupt::Interrupt;
use crate::train::metrics::StepMetrics;
use crate::train::options::{Recipe, TrainOptions};
use crate::train::prepare::Prepared;
use crate::train::progress::Progress;
use crate::train::shared::Shared;
use crate::{Error, Result};

/// The sweep file's name in the output folder.
pub const SWEEP_FILE: &str = "sweep.toml";

/// A sweep and its folder.
#[derive(Clone, Debug)]
pub struct Sweep {
    pub file: SweepFile,
    pub out: PathBuf,
}

/// How a sweep ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// Every run that was asked for is finished.
    Finished(Box<Results>),
    /// Someone asked to stop; so many of these runs were finished.
    Interrupted { finished: usize, of: usize },
}

/// Who is told how far a sweep is.
pub trait Tell: Watch {
    /// A line for people.
    fn say(&self, text: &str);
    /// What shows the steps of a run of so many steps, of which some are done already.
    fn progress(&self, total_steps: u64, done: u64) -> Progress;
}

/// What is known of an arm before anything is trained.
#[derive(Clone, Debug)]
pub struct Listed {
    pub name: String,
    /// The arm's base, by its name.
    pub base: String,
    /// `Err`: why it cannot be.
    pub plan: std::result::Result<Plan, String>,
}

/// Arms of one base, with the recipes that the budget gives them.
struct Group<'a> {
    base: Base,
    arms: Vec<&'a Arm>,
}

/// What of a group is on the device.
struct Loaded {
    weights: Arc<DeviceWeights>,
    kernels: Record,
}

/// A run that is not finished.
struct Waiting<'a> {
    arm: &'a Arm,
    recipe: Recipe,
    seed: u64,
    flops: f64,
}

/// How long the runs of this process took.
#[derive(Default)]
struct Pace {
    flops: f64,
    took: Duration,
}

impl Sweep {
    /// Every arm with its parameters, memory and steps, in the order of the file; nothing is written and no GPU is used.
    ///
    /// # Errors
    /// Bad input in model, data or an arm's recipe.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for group in self.groups()? {
            let model = group.base.open(&self.out)?;
            let shared = Arc::new(Shared::default());
            for &arm in &group.arms {
                let plan = match self.sized(arm, &model)? {
                    Ok(recipe) => Ok(plan_of(&self.prepared(arm, recipe, self.file.seeds[0], &model, &shared)?)),
                    Err(why) => Err(why),
                };
                listed.push(Listed { name: arm.name.clone(), base: group.base.name.clone(), plan });
            }
        }
        let place = |name: &str| self.file.arms.iter().position(|arm| arm.name == name);
        listed.sort_by_key(|arm| place(&arm.name));
        Ok(listed)
    }

    /// Floating-point operations a second of training: those of the finished runs in the folder, or, where there is none, measured on the
    /// device now with the first arm that can be.
    ///
    /// # Errors
    /// As [`Sweep::train`].
    pub fn rate(&self, tell: &dyn Tell) -> Result<Option<f64>> {
        let finished = |arm: &Arm| {
            let runs =
                self.file.seeds.iter().filter_map(|&seed| RunResult::read(&run_folder(&self.out, &arm.name, seed)).ok()?);
            let rates = runs.filter_map(|run| Some(run.plan.flops / run.plan.steps as f64 / run.seconds_a_step?));
            rates.collect::<Vec<f64>>()
        };
        let known = median(self.file.arms.iter().flat_map(finished));
        if known.is_some() {
            return Ok(known);
        }
        for group in self.groups()? {
            let model = group.base.open(&self.out)?;
            for &arm in &group.arms {
                let Ok(recipe) = self.sized(arm, &model)? else { continue };
                let prepared = self.prepared(arm, recipe, self.file.seeds[0], &model, &Arc::default())?;
                let device = prepared.open_device()?;
                let (weights, _) = session::load(&model, &prepared.session_options(), device, &prepared.graphs(), None, tell)?;
                return prepared.measure_rate(weights).map(Some);
            }
        }
        Ok(None)
    }

    /// Trains every run that is not finished, or only those of the arm number `only`, and measures them.
    ///
    /// # Errors
    /// Bad input: in model, data or a recipe; a run in the folder is another than the file asks for. Failed: as a training run. What is
    /// finished stays.
    pub fn train(&self, only: Option<usize>, interrupt: &Interrupt, tell: &dyn Tell) -> Result<Ended> {
        std::fs::create_dir_all(self.out.join("arms")).map_err(|error| {
            let proposal = "give --out a folder that you may write to";
            Error::bad_input(self.out.display(), format!("cannot make this folder: {error}"), proposal)
        })?;
        self.remember(tell)?;
        let only = only.map(|number| self.file.arms[number].name.as_str());
        let mut finished = 0;
        let of = self.file.seeds.len() * if only.is_some() { 1 } else { self.file.arms.len() };
        for group in self.groups()? {
            if only.is_some_and(|only| group.arms.iter().all(|arm| arm.name != only)) {
                continue;
            }
            match self.train_group(&group, only, interrupt, tell)? {
                (all, true) => finished += all,
                (some, false) => return Ok(Ended::Interrupted { finished: finished + some, of }),
            }
        }
        Ok(Ended::Finished(Box::new(self.gather()?)))
    }

    /// Trains the arms of one base; gives how many runs are finished, and whether they are all.
    fn train_group(&self, group: &Group, only: Option<&str>, interrupt: &Interrupt, tell: &dyn Tell) -> Result<(usize, bool)> {
        let model = group.base.open(&self.out)?;
        let sticks = Yardsticks::load(&self.file, &model)?;
        let shared = Arc::new(Shared::default());
        let (mut graphs, mut waiting, mut finished, mut options) = (Vec::new(), Vec::new(), 0, None);
        let mut widest: Option<Prepared> = None;
        for &arm in &group.arms {
            let recipe = match self.sized(arm, &model)? {
                Ok(recipe) => recipe,
                Err(why) => {
                    tell.say(&format!("arm `{}` is passed over: {why}", arm.name));
                    continue;
                }
            };
            for (index, &seed) in self.file.seeds.iter().enumerate() {
                let prepared = self.prepared(arm, recipe.clone(), seed, &model, &shared)?;
                // All arms, whichever are trained now, so that every process of a sweep chooses the same kernels.
                if index == 0 {
                    graphs.extend(prepared.graphs());
                    graphs.extend(sticks.graphs(prepared.placement(), prepared.weight_type())?);
                }
                if only.is_some_and(|only| arm.name != only) {
                    continue;
                }
                let folder = run_folder(&self.out, &arm.name, seed);
                match RunResult::read(&folder)? {
                    Some(result) => {
                        result.check_same(&folder, &recipe_of(&prepared, &sticks)?)?;
                        finished += 1;
                    }
                    None => {
                        let flops = plan_of(&prepared).flops;
                        waiting.push(Waiting { arm, recipe: recipe.clone(), seed, flops });
                        options.get_or_insert_with(|| prepared.session_options());
                        if widest.as_ref().is_none_or(|widest| widest.memory().total() < prepared.memory().total()) {
                            widest = Some(prepared);
                        }
                    }
                }
            }
        }
        let (Some(options), Some(widest)) = (options, widest) else { return Ok((finished, true)) };
        widest.check_fits(&Device::open_for(options.device.as_deref(), options.matmul)?)?;
        drop(widest);
        // The first seed of every arm, then the second: whenever it is stopped, the arms can be compared.
        waiting.sort_by_key(|run| self.file.seeds.iter().position(|seed| *seed == run.seed));
        let (weights, kernels) = group.base.load(&self.out, &model, &options, &graphs, tell)?;
        drop(graphs);
        let mut loaded = Loaded { weights, kernels };
        tell.say(&format!("on {}", loaded.weights.device().info.name));
        if group.base.before(&self.out, &sticks, &loaded.weights, interrupt)?.is_none() {
            return Ok((finished, false));
        }
        let (all, mut pace) = (waiting.len(), Pace::default());
        for at in 0..all {
            let run = &waiting[at];
            tell.say(&format!("run {} of {all}: {}, seed {}{}", at + 1, run.arm.name, run.seed, pace.left(&waiting[at..])));
            let started = Instant::now();
            let prepared = self.prepared(run.arm, run.recipe.clone(), run.seed, &model, &shared)?;
            match self.train_one(run, prepared, &mut loaded, &sticks, interrupt, tell)? {
                Some(whole) => {
                    finished += 1;
                    if whole {
                        pace.flops += run.flops;
                        pace.took += started.elapsed();
                    }
                }
                None => return Ok((finished, false)),
            }
            self.gather()?;
        }
        Ok((finished, true))
    }

    /// Trains and measures a run; gives whether all of its steps were done now. `None`: someone asked to stop.
    fn train_one(
        &self,
        run: &Waiting,
        prepared: Prepared,
        loaded: &mut Loaded,
        sticks: &Yardsticks,
        interrupt: &Interrupt,
        tell: &dyn Tell,
    ) -> Result<Option<bool>> {
        let folder = run_folder(&self.out, &run.arm.name, run.seed);
        let mut result = RunResult::new(&run.arm.name, run.seed, recipe_of(&prepared, sticks)?, plan_of(&prepared));
        let mut output = prepared.open_output()?;
        output.computes_with(&loaded.kernels);
        let (done, ends) = (output.steps_done(), sticks.ends(Some(&prepared.turn_ends())));
        let progress = tell.progress(prepared.total_steps, done);
        let training = prepared.start(loaded.weights.clone(), output, interrupt.clone(), progress)?;
        let measured = match training.train_to_the_end() {
            Ok((Outcome::Interrupted { .. }, _)) => return Ok(None),
            Ok((Outcome::Finished { last_loss, eval_loss, .. }, training)) => {
                // The device may have been lost and opened again.
                loaded.weights = training.trainer().weights().clone();
                (result.train_loss, result.held_out_loss) = (last_loss, eval_loss);
                let history = training.history();
                result.seconds_a_step = median(history.iter().map(seconds));
                result.peak_bytes = history.iter().map(|step| step.gpu_bytes).max();
                let adapter = training.trainer().adapter().clone();
                drop(training);
                sticks.measure(&loaded.weights, Some(&adapter), &ends, interrupt)
            }
            Err(error) => Err(error),
        };
        match measured {
            Ok(Some(measures)) => result.measures = measures,
            Ok(None) => return Ok(None),
            Err(Error::Diverged { place, problem, .. }) => {
                tell.say(&format!("arm `{}`, seed {}, left the numbers: {place}: {problem}", run.arm.name, run.seed));
                result.diverged = Some(format!("{place}: {problem}"));
            }
            Err(error) => return Err(error),
        }
        result.write(&folder)?;
        Ok(Some(done == 0))
    }

    /// Puts together what is finished, and writes table, pictures and [`RESULTS_FILE`].
    ///
    /// # Errors
    /// As [`Results::gather`]; a file cannot be written.
    pub fn gather(&self) -> Result<Results> {
        loop {
            let results = self.results()?;
            write_json(&self.out.join(RESULTS_FILE), &results)?;
            atomic::write_atomically(&self.out.join("results.txt"), report::table(&results).as_bytes())?;
            for (name, svg) in pictures::all(&results) {
                atomic::write_atomically(&self.out.join(name), svg.as_bytes())?;
            }
            // Another process may have finished a run meanwhile, and written before this one did.
            if self.results()? == results {
                return Ok(results);
            }
        }
    }

    fn results(&self) -> Result<Results> {
        let (mut before, mut base_of, mut impossible) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        let mut models: Vec<(String, OpenModel)> = Vec::new();
        for arm in &self.file.arms {
            let base = Base::of(&arm.recipe)?;
            if !before.contains_key(&base.name) {
                before.insert(base.name.clone(), base.measured(&self.out)?.unwrap_or_default());
                if self.file.budget.is_some() {
                    models.push((base.name.clone(), base.open(&self.out)?));
                }
            }
            if let Some((_, model)) = models.iter().find(|(name, _)| *name == base.name)
                && let Err(why) = self.sized(arm, model)?
            {
                impossible.insert(arm.name.clone(), why);
            }
            base_of.push(base.name);
        }
        before.retain(|_, measures| *measures != Measures::default());
        Results::gather(&self.file, &self.out, before, &base_of, impossible)
    }

    /// Arms that have the same base, in the order of the file.
    fn groups(&self) -> Result<Vec<Group<'_>>> {
        let mut groups: Vec<Group> = Vec::new();
        for arm in &self.file.arms {
            let base = Base::of(&arm.recipe)?;
            match groups.iter_mut().find(|group| group.base.name == base.name) {
                Some(group) => group.arms.push(arm),
                None => groups.push(Group { base, arms: vec![arm] }),
            }
        }
        Ok(groups)
    }

    /// The arm's recipe with the rank that the budget leaves, or why there is none.
    fn sized(&self, arm: &Arm, model: &OpenModel) -> Result<std::result::Result<Recipe, String>> {
        match self.file.budget {
            None => Ok(Ok(arm.recipe.clone())),
            Some(budget) => budget::sized(&arm.recipe, budget, model).map_err(|error| of_arm(arm, error)),
        }
    }

    fn prepared<'m>(
        &self,
        arm: &Arm,
        recipe: Recipe,
        seed: u64,
        model: &'m OpenModel,
        shared: &Arc<Shared>,
    ) -> Result<Prepared<'m>> {
        let out = Some(run_folder(&self.out, &arm.name, seed));
        let options: Result<TrainOptions> = Recipe { out, seed: Some(seed), resume: Some(true), ..recipe }.resolve();
        options.and_then(|options| Prepared::beside(shared.clone(), options, model)).map_err(|error| of_arm(arm, error))
    }

    /// Keeps the sweep file in the folder; tells what has changed since it was begun.
    fn remember(&self, tell: &dyn Tell) -> Result<()> {
        let path = self.out.join(SWEEP_FILE);
        let before = files::read_to_string(&path, files::DESCRIPTION).ok();
        if before.as_deref() == Some(self.file.text.as_str()) {
            return Ok(());
        }
        if let Some(Ok(before)) = before.map(|text| SweepFile::from_toml(&text, &path)) {
            tell.say(&changes(&before, &self.file));
        }
        atomic::write_atomically(&path, self.file.text.as_bytes())
    }
}

/// What is new in a sweep file, and what is gone.
fn changes(before: &SweepFile, now: &SweepFile) -> String {
    let names = |file: &SweepFile| file.arms.iter().map(|arm| arm.name.clone()).collect::<Vec<_>>();
    let (old, new) = (names(before), names(now));
    let only = |these: &[String], others: &[String]| {
        let only: Vec<&str> = these.iter().filter(|name| !others.contains(name)).map(String::as_str).collect();
        if only.is_empty() { "none".to_string() } else { only.join(", ") }
    };
    let seeds =
        if before.seeds == now.seeds { String::new() } else { format!("; seeds {:?}, were {:?}", now.seeds, before.seeds) };
    format!(
        "the sweep file has changed since this folder was begun: new arms: {}; arms that are gone: {} (their runs stay in the folder and \
         are not reported){seeds}",
        only(&new, &old),
        only(&old, &new)
    )
}

fn of_arm(arm: &Arm, error: Error) -> Error {
    match error {
        Error::BadInput { place, problem, proposal } => {
            Error::bad_input(format!("arm `{}`: {place}", arm.name), problem, proposal)
        }
        other => other,
    }
}

/// What a finished run must have been.
fn recipe_of(prepared: &Prepared, sticks: &Yardsticks) -> Result<BTreeMap<String, String>> {
    let mut recipe = prepared.fingerprint()?;
    recipe.extend(sticks.fingerprint());
    Ok(recipe)
}

fn plan_of(prepared: &Prepared) -> Plan {
    let batches = prepared.total_steps as f64 * prepared.batches_a_step as f64;
    Plan {
        rank: match &prepared.adapter {
            AdapterFile::Peft(config) => config.r,
            // The widest bottleneck.
            AdapterFile::AdapterHub(_) => prepared.placement().pieces.iter().map(|piece| piece.method.width()).max().unwrap_or(0),
        },
        parameters: prepared.trained_parameters(),
        planned_bytes: prepared.memory().total(),
        steps: prepared.total_steps,
        flops: batches * prepared.flops_a_batch(),
    }
}

fn seconds(step: &StepMetrics) -> f64 {
    step.tokens as f64 / step.tokens_per_second
}

/// The middle value, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[half]),
        _ => Some((values[half - 1] + values[half]) / 2.0),
    }
}

impl Pace {
    /// About how long these runs will take, for people; empty before the first is done.
    fn left(&self, waiting: &[Waiting]) -> String {
        let flops: f64 = waiting.iter().map(|run| run.flops).sum();
        match self.flops > 0.0 {
            true => format!(", about {} left", duration(self.took.as_secs_f64() * flops / self.flops)),
            false => String::new(),
        }
    }
}

/// The sweep that a folder holds: by the file in it.
///
/// # Errors
/// Bad input: there is none, or it is damaged.
pub fn of_folder(out: &Path) -> Result<Sweep> {
    let file = SweepFile::read(&out.join(SWEEP_FILE))?;
    Ok(Sweep { file, out: out.to_path_buf() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, f64::NAN, 3.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn a_changed_file_is_told_by_its_arms() {
        let file = |text: &str| SweepFile::from_toml(text, Path::new("sweep.toml")).unwrap();
        let text = changes(&file("[axes]\nlora_r = [1, 2]\n"), &file("seeds = [1, 2]\n[axes]\nlora_r = [2, 4]\n"));
        assert!(text.contains("new arms: r-4; arms that are gone: r-1") && text.contains("seeds [1, 2], were [0]"), "{text}");
    }
}
