//! Runs and sweeps that have been, found by what they leave in their folders.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::Serialize;
use serde_json::Value;

use super::tail;
use crate::files;
use crate::formats::adapter_file::AdapterFile;
use crate::sweep::result::RESULTS_FILE;
use crate::train::lock;
use crate::train::metrics::METRICS_FILE;
use crate::train::tell::about::About;

/// How deep below a folder runs are looked for: a sweep's are at `sweep/arms/NAME/seed-N`.
const DEPTH: usize = 5;
/// Folders that are looked into.
const FOLDERS: usize = 2000;
/// Bytes of the largest results of a sweep.
const RESULTS_BYTES: u64 = 1 << 24;

/// What there is below some folders.
#[derive(Debug, Default, Serialize)]
pub struct Past {
    /// The newest first.
    pub runs: Vec<PastRun>,
    pub sweeps: Vec<PastSweep>,
    /// Whether there were more folders than are looked into.
    pub cut: bool,
}

/// A run.
#[derive(Debug, Serialize)]
pub struct PastRun {
    pub dir: String,
    /// Steps done.
    pub steps: u64,
    pub total_steps: Option<u64>,
    pub loss: Option<f64>,
    /// The last.
    pub eval_loss: Option<f64>,
    /// Whether somebody trains there now.
    pub running: bool,
    /// Whether it has left an adapter.
    pub adapter: bool,
    /// Of the metrics, in seconds since 1970.
    pub changed: u64,
    pub model: Option<String>,
    pub parameters: Option<usize>,
    /// Loss by step, thinned to some tens, for a small picture.
    pub curve: Vec<[f64; 2]>,
}

/// A sweep.
#[derive(Debug, Serialize)]
pub struct PastSweep {
    pub dir: String,
    /// As `results.json` has it.
    pub results: Value,
}

/// Points of a small picture.
const POINTS: usize = 60;

/// Runs and sweeps below `folders`.
pub fn past(folders: &[PathBuf]) -> Past {
    let mut past = Past::default();
    let mut seen = std::collections::BTreeSet::new();
    let mut waiting: Vec<(PathBuf, usize)> = folders.iter().rev().map(|folder| (folder.clone(), 0)).collect();
    while let Some((folder, depth)) = waiting.pop() {
        let Ok(whole) = folder.canonicalize() else { continue };
        if !seen.insert(whole) {
            continue;
        }
        if seen.len() > FOLDERS {
            past.cut = true;
            break;
        }
        if folder.join(METRICS_FILE).is_file() {
            past.runs.push(PastRun::of(&folder));
            continue;
        }
        let results = files::read_to_string(&folder.join(RESULTS_FILE), RESULTS_BYTES).ok();
        if let Some(results) =
            results.and_then(|text| serde_json::from_str::<Value>(&text).ok()).filter(|all| all["arms"].is_array())
        {
            past.sweeps.push(PastSweep { dir: folder.display().to_string(), results });
        }
        if depth < DEPTH {
            waiting.extend(below(&folder).into_iter().map(|folder| (folder, depth + 1)));
        }
    }
    past.runs.sort_by_key(|run| std::cmp::Reverse(run.changed));
    past
}

/// The folders in a folder; hidden ones and links are left out.
fn below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let is_folder = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let is_shown = |entry: &std::fs::DirEntry| !entry.file_name().to_string_lossy().starts_with('.');
    let mut folders: Vec<PathBuf> =
        entries.flatten().filter(|entry| is_folder(entry) && is_shown(entry)).map(|entry| entry.path()).collect();
    folders.sort();
    folders
}

impl PastRun {
    fn of(folder: &Path) -> Self {
        let (steps, about) = (tail::all(folder), About::read(folder));
        let changed = std::fs::metadata(folder.join(METRICS_FILE)).and_then(|about| about.modified()).ok();
        let changed = changed.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |time| time.as_secs());
        let every = steps.len().div_ceil(POINTS).max(1);
        Self {
            dir: folder.display().to_string(),
            steps: steps.last().map_or(0, |last| last.step),
            total_steps: about.as_ref().map(|about| about.total_steps),
            loss: steps.last().map(|last| last.loss),
            eval_loss: steps.iter().rev().find_map(|step| step.eval_loss),
            running: lock::holder(folder).is_some(),
            adapter: AdapterFile::is_in(folder),
            changed,
            model: super::base_model(folder),
            parameters: about.map(|about| about.parameters),
            curve: steps.iter().step_by(every).map(|step| [step.step as f64, step.loss]).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::metrics::{MetricsLog, StepMetrics};

    #[test]
    fn runs_and_sweeps_are_found_and_what_is_neither_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let metrics = StepMetrics { eval_loss: Some(0.5), ..StepMetrics::example(7, 0.25) };
        MetricsLog::open(&at("a/run"), 0).unwrap().append(metrics.clone()).unwrap();
        MetricsLog::open(&at("sweep/arms/one/seed-1"), 0).unwrap().append(metrics).unwrap();
        std::fs::write(at("sweep").join(RESULTS_FILE), r#"{"arms": []}"#).unwrap();
        std::fs::write(at("other").join(RESULTS_FILE), "[]").unwrap();
        at(".hidden");
        let past = past(&[folder.path().to_path_buf(), folder.path().join("a")]);
        assert_eq!((past.runs.len(), past.sweeps.len(), past.cut), (2, 1, false));
        let run = &past.runs[0];
        assert_eq!((run.steps, run.loss, run.eval_loss, run.running, run.adapter), (7, Some(0.25), Some(0.5), false, false));
        assert_eq!(run.curve, [[7.0, 0.25]]);
    }
}
