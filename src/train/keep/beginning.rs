//! Whether a run may begin in an output folder, or go on there, and from what. Nothing of what is found is changed here, but for
//! [`make_way`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, RunState, cannot_list};
use super::folder::{self, ADAPTER_FILES, Found, Kind};
use super::sums;
use crate::adapter::AdapterLayout;
use crate::adapter::{end_of_turn, rope_scaling};
use crate::formats::adapter_file::WEIGHTS;
use crate::ranks::Ranks;
use crate::train::curve::CURVE_FILE;
use crate::train::metrics::METRICS_FILE;
use crate::train::options::TrainOptions;
use crate::train::tell::SAMPLES_FILE;
use crate::{Error, Result};

/// What is told to people whose checkpoints cannot be gone on from.
const ANEW: &str = "start anew in another --out (with --init-adapter CHECKPOINT to build on one), or here with --overwrite";

/// What an output folder is to be used for.
#[derive(Debug, Clone, Copy)]
pub struct Purpose<'a> {
    pub out: &'a Path,
    pub resume: bool,
    /// Replace what is there.
    pub overwrite: bool,
    /// Steps of the whole run.
    pub total_steps: u64,
}

impl Purpose<'_> {
    fn found(&self) -> Result<Vec<Found>> {
        folder::checkpoints(self.out).map_err(|error| cannot_list(self.out, &error))
    }

    /// That a new run would replace nothing, or is told to.
    ///
    /// # Errors
    /// Bad input, naming all that is in the way.
    pub fn check_new(&self) -> Result<()> {
        let found = self.found()?;
        if self.resume || self.overwrite {
            return Ok(());
        }
        let there = |name: &str| fs::symlink_metadata(self.out.join(name)).ok();
        // A file of no bytes is what a run leaves that was stopped before its first step.
        let full = |name: &str| there(name).is_some_and(|found| !found.is_file() || found.len() > 0);
        let others = [METRICS_FILE, SAMPLES_FILE, CURVE_FILE, end_of_turn::FILE, rope_scaling::FILE];
        // A config of an adapter beside a model changes what other programs load.
        let of_models =
            ["adapter_model.bin", "pytorch_adapter.bin", "config.json", "model.safetensors", "model.safetensors.index.json"];
        let names = ADAPTER_FILES.iter().chain(&others).chain(&of_models);
        let files: Vec<String> = names.filter(|name| full(name)).map(|name| name.to_string()).collect();
        let run = found.iter().find(|found| matches!(found.kind, Kind::Checkpoint(_)));
        let proposal = "go on with it by --resume, replace it with --overwrite, or give another --out";
        match (run, found.is_empty() && files.is_empty()) {
            (Some(run), _) => {
                let problem = format!("holds a run already ({})", run.described());
                Err(Error::bad_input(self.out.display(), problem, proposal))
            }
            (None, false) => {
                let all: Vec<String> = found.iter().map(Found::described).chain(files).collect();
                let problem = format!("holds what a new run would replace or be mixed with: {}", all.join("; "));
                let proposal = "give another --out, or replace it with --overwrite; --resume goes on with a run of graftling";
                Err(Error::bad_input(self.out.display(), problem, proposal))
            }
            (None, true) => Ok(()),
        }
    }

    /// The newest good checkpoint of the run that has these options; `None` if the run begins. What is damaged is passed over with a
    /// warning if an older one is good.
    ///
    /// # Errors
    /// Bad input: it is of another run; there are checkpoints, but none is good; one is of another version of graftling; something that
    /// was not made by graftling has the name that a checkpoint of this run will need.
    pub fn newest(&self, options: &BTreeMap<String, String>, layout: &AdapterLayout) -> Result<Option<(PathBuf, Checkpoint)>> {
        let found = self.found()?;
        let out = self.out.display();
        let list = |of: &[&Found]| of.iter().map(|found| found.described()).collect::<Vec<_>>().join("; ");
        let mut newest = None;
        if self.resume {
            let others: Vec<&Found> = found.iter().filter(|found| matches!(found.kind, Kind::OtherVersion(_))).collect();
            if !others.is_empty() {
                let problem = format!("holds checkpoints that this graftling cannot go on from: {}", list(&others));
                return Err(Error::bad_input(out, problem, format!("go on with the graftling that wrote them, or {ANEW}")));
            }
            let mut passed_over = Vec::new();
            for found in &found {
                let problem = match &found.kind {
                    Kind::Foreign | Kind::OtherVersion(_) => continue,
                    Kind::Damaged(problem) => problem.clone(),
                    Kind::Checkpoint(state) => match self.load(found, state, options, layout)? {
                        Ok(checkpoint) => {
                            newest = Some((found.path.clone(), checkpoint));
                            break;
                        }
                        Err(problem) => problem,
                    },
                };
                passed_over.push((found.path.display(), problem));
            }
            if newest.is_none() && !passed_over.is_empty() && !self.overwrite {
                let all: Vec<String> = passed_over.iter().map(|(path, problem)| format!("{path}: {problem}")).collect();
                let problem = format!("holds checkpoints, but none that can be gone on from\n  {}", all.join("\n  "));
                return Err(Error::bad_input(out, problem, ANEW));
            }
            passed_over.iter().for_each(|(path, problem)| tracing::warn!("{path} is passed over: {problem}"));
        }
        let done = newest.as_ref().map_or(0, |(_, checkpoint)| checkpoint.state.step);
        let in_the_way = |found: &&Found| found.kind == Kind::Foreign && found.step > done && found.step <= self.total_steps;
        let in_the_way: Vec<&Found> = found.iter().filter(in_the_way).collect();
        match in_the_way.is_empty() {
            true => Ok(newest),
            false => {
                let problem = format!("holds what has the name of a checkpoint that this run may write: {}", list(&in_the_way));
                Err(Error::bad_input(out, problem, "move it away, or give another --out"))
            }
        }
    }

    /// A checkpoint of this run, or why it cannot be gone on from.
    ///
    /// # Errors
    /// Bad input: it is of another run.
    fn load(
        &self,
        found: &Found,
        state: &RunState,
        options: &BTreeMap<String, String>,
        layout: &AdapterLayout,
    ) -> Result<std::result::Result<Checkpoint, String>> {
        // The digests first: of a damaged state nothing follows.
        if let Err(problem) = sums::verify(&found.path, &folder::files(&found.path)) {
            return Ok(Err(problem));
        }
        state.check_same_run(&found.path, options)?;
        Ok(Checkpoint::load(&found.path, state.clone(), layout).map_err(|error| error.to_string()))
    }

    /// That a run which goes on finds beside its adapter what it wrote there, or nothing.
    ///
    /// # Errors
    /// Bad input: something else is there.
    pub fn check_notes(&self, notes: &Notes) -> Result<()> {
        match notes.iter().map(|(name, text)| (self.out.join(name), text)).find(|(path, text)| is_other(path, text.as_deref())) {
            Some((path, _)) if !self.overwrite => {
                let problem = "is not as this run wrote it, or is a link, and the run would replace it";
                Err(Error::bad_input(path.display(), problem, "move it away, or put it aside with --overwrite"))
            }
            _ => Ok(()),
        }
    }

    /// Digests of the adapter's files that are in the folder, all of which the run may replace at its end: copies of what a checkpoint
    /// holds, or what `before` says. And those files that the run puts aside: what may be of it, but whose checkpoint has lost its digests;
    /// and, with `overwrite`, tensors of another library's adapter than those in `weights`, which would stand beside its own.
    ///
    /// # Errors
    /// Bad input: another adapter is there, or something that cannot be replaced.
    pub fn may_replace(
        &self,
        before: &BTreeMap<String, String>,
        weights: &str,
    ) -> Result<(BTreeMap<String, String>, Vec<PathBuf>)> {
        let (mut may, mut aside) = (BTreeMap::new(), Vec::new());
        let found = self.found()?;
        let undigested = |found: &Found| found.kind != Kind::Foreign && sums::read(&found.path).is_ok_and(|all| all.is_empty());
        let lost = self.resume && found.iter().any(undigested);
        for name in ADAPTER_FILES {
            let path = self.out.join(name);
            let Ok(there) = fs::symlink_metadata(&path) else { continue };
            if there.is_dir() || there.is_file() && there.permissions().readonly() {
                let what = if there.is_dir() { "is a folder" } else { "is read-only" };
                let problem = format!("{what}, and the run will write its adapter there");
                return Err(Error::bad_input(path.display(), problem, "move it away, or give another --out"));
            }
            if WEIGHTS.contains(&name) && name != weights && self.overwrite {
                aside.push(path);
                continue;
            }
            let digest = sums::of_file(&path).ok();
            let known = digest.as_ref().is_some_and(|digest| {
                // What it holds, or held before it was damaged.
                let in_checkpoint = |found: &Found| {
                    sums::of_file(&found.path.join(name)).is_ok_and(|of| of == *digest)
                        || sums::read(&found.path).is_ok_and(|stated| stated.get(name) == Some(digest))
                };
                before.get(name) == Some(digest) || found.iter().any(|found| found.kind != Kind::Foreign && in_checkpoint(found))
            });
            if !known && !self.overwrite && lost && there.is_file() {
                aside.push(path);
                continue;
            }
            if !known && !self.overwrite {
                let problem = "this adapter is not of this run, which would replace it at its end";
                return Err(Error::bad_input(path.display(), problem, "give another --out, or replace it with --overwrite"));
            }
            may.extend(digest.map(|digest| (name.to_string(), digest)));
        }
        Ok((may, aside))
    }
}

/// The moment that dates in the chat template are taken from in the run that is continued; `None` if there is none.
pub fn template_time(options: &TrainOptions) -> Option<i64> {
    newest_state(options)?.template_time
}

/// With how many ranks the run began that is continued; `None` if there is none.
pub fn ranks(options: &TrainOptions) -> Option<usize> {
    newest_state(options).map(|state| state.ranks)
}

fn newest_state(options: &TrainOptions) -> Option<RunState> {
    let found = if options.resume { folder::checkpoints(&options.out).unwrap_or_default() } else { Vec::new() };
    found.into_iter().find_map(|found| match found.kind {
        Kind::Checkpoint(state) => Some(*state),
        _ => None,
    })
}

/// What all ranks of a run have to know before they open its model, and the first one finds in its output folder.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Before {
    /// The moment that dates in the chat template are taken from; `None` for now, of a process that is alone.
    pub template_time: Option<i64>,
    /// With how many ranks the run began, which is now if it does.
    pub began_with: usize,
}

impl Before {
    /// What the first rank knows.
    ///
    /// # Errors
    /// As [`Ranks::told`].
    pub fn told(options: &TrainOptions, among: &Ranks) -> Result<Self> {
        // Now is not the same moment for all.
        let now = || (!among.is_alone()).then(crate::text::chat_template::now);
        let state = newest_state(options);
        among.told(Self {
            template_time: state.as_ref().and_then(|state| state.template_time).or_else(now),
            began_with: state.map_or(among.count(), |state| state.ranks),
        })
    }
}

/// Puts aside the checkpoints and the metrics of an earlier run before a new one begins.
///
/// # Errors
/// Failed: something cannot be renamed.
pub fn make_way(out: &Path) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::failed(out.display(), format!("cannot put an earlier run aside: {error}"), "check the folder's permissions")
    };
    for found in folder::checkpoints(out).map_err(failed)? {
        if found.kind != Kind::Foreign {
            folder::set_aside(&found).map_err(failed)?;
        }
    }
    let told = [METRICS_FILE, SAMPLES_FILE].map(|name| out.join(name));
    let is_full = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|found| !found.is_file() || found.len() > 0);
    put_aside(&told.into_iter().filter(is_full).collect::<Vec<_>>())
}

/// Files beside an adapter that tell how to generate with it, by name; `None`: the adapter needs no such file, and one that is there
/// would be wrong.
pub type Notes = Vec<(&'static str, Option<String>)>;

/// Puts aside what stands in the place of `notes` and says something else.
///
/// # Errors
/// Failed: something cannot be renamed.
pub fn make_way_for_notes(out: &Path, notes: &Notes) -> Result<()> {
    let others = notes.iter().map(|(name, text)| (out.join(name), text)).filter(|(path, text)| is_other(path, text.as_deref()));
    put_aside(&others.map(|(path, _)| path).collect::<Vec<_>>())
}

/// Whether there is something at `path`, and not a file that says `text`.
fn is_other(path: &Path, text: Option<&str>) -> bool {
    let same = |text: &str| super::plain::read(path, text.len() as u64 + 1).is_ok_and(|found| found == text.as_bytes());
    fs::symlink_metadata(path).is_ok() && !text.is_some_and(same)
}

/// The adapter's files as they stand when a run begins: what it may replace in the end.
#[derive(Debug)]
pub struct Standing(Vec<(PathBuf, Stamp)>);

/// When a file was changed last, and its bytes; `None`: there is none.
type Stamp = Option<(Option<SystemTime>, u64)>;

impl Standing {
    /// What stands in `out` now.
    pub fn of(out: &Path) -> Self {
        Self(ADAPTER_FILES.iter().map(|name| out.join(name)).map(|path| (path.clone(), stamp(&path))).collect())
    }

    /// The files that someone else has put there since.
    pub fn newcomers(&self) -> Vec<PathBuf> {
        let new = |(path, before): &&(PathBuf, Stamp)| stamp(path).is_some_and(|now| *before != Some(now));
        self.0.iter().filter(new).map(|(path, _)| path.clone()).collect()
    }
}

fn stamp(path: &Path) -> Stamp {
    fs::symlink_metadata(path).ok().map(|found| (found.modified().ok(), found.len()))
}

/// Gives each of these files the first free name of `NAME.1`, `NAME.2` ...
///
/// # Errors
/// Failed: one cannot be renamed.
pub fn put_aside(paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let kept = folder::rename_to_free(path, |number| format!("{name}.{number}")).map_err(|error| {
            Error::failed(path.display(), format!("cannot be put aside: {error}"), "check the folder's permissions")
        })?;
        tracing::info!("{} is kept as {}", path.display(), kept.display());
    }
    Ok(())
}

/// That the output folder is not the model's own: an adapter's config beside a model changes what other programs load.
///
/// # Errors
/// Bad input.
pub fn check_is_no_model(out: &Path, model: &str) -> Result<()> {
    match (fs::canonicalize(out), fs::canonicalize(model)) {
        (Ok(of_run), Ok(of_model)) if of_run == of_model => {
            Err(Error::bad_input(out.display(), "--out is the folder of --model", "give --out a folder of its own"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_others_are_neither_replaced_nor_left_to_mislead() {
        let out = tempfile::tempdir().unwrap();
        let notes: Notes = vec![("end", Some("mine".to_string())), ("scaling", None)];
        let purpose = |overwrite| Purpose { out: out.path(), resume: true, overwrite, total_steps: 9 };
        let names = || {
            let mut all: Vec<_> = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            all.sort();
            all
        };
        purpose(false).check_notes(&notes).unwrap();
        fs::write(out.path().join("end"), "mine").unwrap();
        purpose(false).check_notes(&notes).unwrap();
        make_way_for_notes(out.path(), &notes).unwrap();
        assert_eq!(names(), ["end"]);
        fs::write(out.path().join("scaling"), "of another run").unwrap();
        fs::write(out.path().join("end"), "mine, edited").unwrap();
        assert!(purpose(false).check_notes(&notes).unwrap_err().to_string().contains("end: is not"));
        purpose(true).check_notes(&notes).unwrap();
        make_way_for_notes(out.path(), &notes).unwrap();
        assert_eq!(names(), ["end.1", "scaling.1"]);
    }

    #[test]
    fn an_earlier_run_is_put_aside_under_names_that_are_free() {
        let out = tempfile::tempdir().unwrap();
        for round in 1..=2 {
            fs::create_dir(out.path().join("checkpoint-3")).unwrap();
            fs::write(out.path().join(METRICS_FILE), format!("{round}\n")).unwrap();
            make_way(out.path()).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["damaged-checkpoint-3", "damaged-checkpoint-3-2", "metrics.jsonl.1", "metrics.jsonl.2"]);
        assert_eq!(fs::read_to_string(out.path().join("metrics.jsonl.2")).unwrap(), "2\n");
    }
}
