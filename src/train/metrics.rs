//! `metrics.jsonl`: one object a step, and never a step twice.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::keep::plain;
use crate::formats::atomic;
use crate::generate::answers::Tally;
use crate::{Error, Result};

/// The file's name inside the output folder.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// What one optimizer step did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Counted from 1.
    pub step: u64,
    /// Mean of -log p over the step's supervised tokens (natural log), before the update.
    pub loss: f64,
    pub learning_rate: f64,
    /// Global norm of the adapter gradient before clipping.
    pub grad_norm: f64,
    /// Tokens that went through the model in this step.
    pub tokens: u64,
    /// Those of them that had a loss.
    pub supervised_tokens: u64,
    /// `tokens` over the wall-clock time of the step.
    pub tokens_per_second: f64,
    /// GPU memory that the engine has allocated, in bytes; of all ranks.
    pub gpu_bytes: u64,
    /// Mean load balancing loss of the step's batches, which each add it, times its coefficient, to their part of what is minimised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aux_loss: Option<f64>,
    /// Mean loss on the held-out data after the update, in the steps that evaluate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// Questions of `--check-data` that were answered right after the update, in the steps that ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Tally>,
}

#[cfg(test)]
impl StepMetrics {
    /// A step for tests.
    pub(crate) fn example(step: u64, loss: f64) -> Self {
        Self {
            step,
            loss,
            learning_rate: 1e-4,
            grad_norm: 0.5,
            tokens: 512,
            supervised_tokens: 300,
            tokens_per_second: 99.5,
            gpu_bytes: 1 << 30,
            aux_loss: None,
            eval_loss: None,
            check: None,
        }
    }
}

/// The open file and all that it holds.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    /// `None`: another rank writes it.
    file: Option<File>,
    history: Vec<StepMetrics>,
}

impl MetricsLog {
    /// Opens `folder/metrics.jsonl` for a run that has done `step` steps (0 for a new one). What graftling has written about later steps,
    /// and a last line that a kill has torn, is cut out, since these steps are done again; every other line stays.
    ///
    /// # Errors
    /// Failed, when the file cannot be read or written, or is no ordinary file.
    pub fn open(folder: &Path, step: u64) -> Result<Self> {
        let path = folder.join(METRICS_FILE);
        let failed = |error: io::Error| failed(&path, &error);
        match plain::read(&path, u64::MAX) {
            Ok(written) if !written.is_empty() => {
                let (history, kept) = read_until(&written, step);
                // A new file, so that one which has another name as well is not written to under that.
                atomic::write_atomically(&path, &kept)?;
                Self::append_to(path.clone(), history).map_err(failed)
            }
            Ok(_) => Self::append_to(path.clone(), Vec::new()).map_err(failed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::append_to(path.clone(), Vec::new()).map_err(failed),
            Err(error) => Err(failed(error)),
        }
    }

    fn append_to(path: PathBuf, history: Vec<StepMetrics>) -> io::Result<Self> {
        let file = plain::open_with(&path, OpenOptions::new().create(true).append(true))?;
        Ok(Self { path, file: Some(file), history })
    }

    /// The metrics of a run that another rank writes, which knows what was `last` written.
    pub fn of_another_rank(folder: &Path, last: Option<StepMetrics>) -> Self {
        Self { path: folder.join(METRICS_FILE), file: None, history: last.into_iter().collect() }
    }

    /// Adds one step: one write of one line.
    ///
    /// # Errors
    /// Failed, when the file cannot be written.
    pub fn append(&mut self, metrics: StepMetrics) -> Result<()> {
        let line = self.line(&metrics)?;
        if let Some(file) = &mut self.file {
            file.write_all(line.as_bytes()).map_err(|error| failed(&self.path, &error))?;
        }
        self.history.push(metrics);
        Ok(())
    }

    fn line(&self, metrics: &StepMetrics) -> Result<String> {
        serde_json::to_string(metrics).map(|line| line + "\n").map_err(|error| failed(&self.path, &error))
    }

    /// Puts what is known now in the place of what was written about the newest step. A file that cannot be replaced whole is left as it
    /// was.
    ///
    /// # Errors
    /// Failed, when the file cannot be written.
    pub fn complete(&mut self, metrics: StepMetrics) -> Result<()> {
        if self.file.is_none() {
            self.history.pop();
            self.history.push(metrics);
            return Ok(());
        }
        let unreadable = |error: io::Error| failed(&self.path, &error);
        let written = plain::read(&self.path, u64::MAX).map_err(unreadable)?;
        let (mut history, mut kept) = read_until(&written, metrics.step.saturating_sub(1));
        kept.extend_from_slice(self.line(&metrics)?.as_bytes());
        history.push(metrics);
        atomic::write_atomically(&self.path, &kept)?;
        *self = Self::append_to(self.path.clone(), history).map_err(unreadable)?;
        Ok(())
    }

    /// Forces what was written to disk; done before each checkpoint, so that none is ahead of its metrics.
    ///
    /// # Errors
    /// Failed, when the disk is full or gone.
    pub fn sync(&self) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_all).map_err(|error| failed(&self.path, &error))
    }

    /// All steps of the run so far, also those before a resume; of a rank that does not write them, at least the newest.
    pub fn history(&self) -> &[StepMetrics] {
        &self.history
    }
}

/// That the metrics of a run can be gone on with.
///
/// # Errors
/// Bad input: something else than a file has their name.
pub(super) fn check(folder: &Path) -> Result<()> {
    let path = folder.join(METRICS_FILE);
    match std::fs::symlink_metadata(&path) {
        Ok(found) if !found.is_file() => {
            let problem = "is no ordinary file (a link, a folder or a pipe), and graftling writes the run's metrics there";
            Err(Error::bad_input(path.display(), problem, "put a copy of the metrics in its place, or move it away"))
        }
        _ => Ok(()),
    }
}

/// The steps in `bytes` up to and including `step`, each later than the one before it, and `bytes` without the lines of later steps and
/// without a torn end. Other lines, such as notes, belong to whoever wrote them.
fn read_until(bytes: &[u8], step: u64) -> (Vec<StepMetrics>, Vec<u8>) {
    let (mut history, mut kept) = (Vec::<StepMetrics>::new(), Vec::with_capacity(bytes.len()));
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let torn = !line.ends_with(b"\n") && (line.starts_with(BEGINNING) || BEGINNING.starts_with(line));
        match serde_json::from_slice::<StepMetrics>(line) {
            Ok(metrics) if metrics.step > step => continue,
            Ok(metrics) if history.last().is_none_or(|last| metrics.step > last.step) => history.push(metrics),
            Err(_) if torn && serde_json::from_slice::<serde_json::Value>(line).is_err() => continue,
            _ => {}
        }
        kept.extend_from_slice(line);
    }
    if !kept.is_empty() && !kept.ends_with(b"\n") {
        kept.push(b'\n');
    }
    (history, kept)
}

/// How each line begins that graftling writes.
const BEGINNING: &[u8] = b"{\"step\":";

fn failed(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::failed(path.display(), format!("cannot write the metrics: {error}"), "free some disk space, then go on with --resume")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64, loss: f64) -> StepMetrics {
        StepMetrics { eval_loss: step.is_multiple_of(2).then_some(1.5), ..StepMetrics::example(step, loss) }
    }

    #[test]
    fn a_line_is_one_object_with_the_contracts_keys() {
        let folder = tempfile::tempdir().unwrap();
        MetricsLog::open(folder.path(), 0).unwrap().append(step(1, 0.1)).unwrap();
        let text = std::fs::read_to_string(folder.path().join(METRICS_FILE)).unwrap();
        assert_eq!(
            text,
            "{\"step\":1,\"loss\":0.1,\"learning_rate\":0.0001,\"grad_norm\":0.5,\"tokens\":512,\"supervised_tokens\":300,\
             \"tokens_per_second\":99.5,\"gpu_bytes\":1073741824}\n"
        );
    }

    #[test]
    fn resume_cuts_back_to_the_checkpoint_and_repairs_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS_FILE);
        let mut log = MetricsLog::open(folder.path(), 0).unwrap();
        // Losses whose shortest decimal form has 16 and 17 digits: what is read back must be the same bits.
        let losses = [0.1 + 0.2, 1.0 / 3.0, 2.2250738585072014e-308, 4.9];
        for (at, &loss) in losses.iter().enumerate() {
            log.append(step(at as u64 + 1, loss)).unwrap();
        }
        drop(log);
        let whole = std::fs::read(&path).unwrap();
        let lines: Vec<usize> = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let log = MetricsLog::open(folder.path(), 3).unwrap();
            // An object that is closed is whole, also without its line end (which an editor may have taken).
            let complete = lines.iter().take(3).filter(|&&end| end - 1 <= length).count();
            assert_eq!(log.history().iter().map(|metrics| metrics.loss).collect::<Vec<_>>(), losses[..complete]);
            let kept = if complete == 0 { 0 } else { lines[complete - 1] };
            assert_eq!(std::fs::read(&path).unwrap(), whole[..kept]);
        }
    }

    #[test]
    fn what_was_owed_of_the_newest_step_takes_the_place_of_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(folder.path(), 0).unwrap();
        (1..=3).for_each(|at| log.append(step(at, at as f64)).unwrap());
        let whole = StepMetrics { eval_loss: Some(0.25), ..step(3, 3.0) };
        log.complete(whole.clone()).unwrap();
        log.append(step(4, 4.0)).unwrap();
        let expected = [step(1, 1.0), step(2, 2.0), whole, step(4, 4.0)];
        assert_eq!(log.history(), expected);
        assert_eq!(MetricsLog::open(folder.path(), 4).unwrap().history(), expected);
    }

    #[test]
    fn lines_of_others_stay_wherever_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS_FILE);
        let line = |at: u64| format!("{}\n", serde_json::to_string(&step(at, at as f64)).unwrap());
        let notes = ["# a note\n", "\n", "{\"step\": 9, \"note\": \"mine\"}\n", "\u{e4}\r\n"];
        let of_others = [line(1), notes[0].into(), line(2), notes[1].into(), notes[2].into(), line(2), line(3)].concat();
        let text = [of_others.clone(), line(4), notes[3].into(), line(5), "# no line end".into()].concat();
        std::fs::write(&path, [text.as_bytes(), b"\xff"].concat()).unwrap();
        let log = MetricsLog::open(folder.path(), 3).unwrap();
        assert_eq!(log.history().iter().map(|metrics| metrics.step).collect::<Vec<_>>(), [1, 2, 3]);
        let kept = [of_others, notes[3].into(), "# no line end".into()].concat();
        assert_eq!(std::fs::read(&path).unwrap(), [kept.as_bytes(), b"\xff\n"].concat());
    }

    #[cfg(unix)]
    #[test]
    fn another_name_of_the_file_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let (path, user) = (folder.path().join(METRICS_FILE), folder.path().join("user"));
        std::fs::write(&user, "mine\n").unwrap();
        std::fs::hard_link(&user, &path).unwrap();
        MetricsLog::open(folder.path(), 1).unwrap().append(step(2, 0.5)).unwrap();
        assert_eq!(std::fs::read_to_string(&user).unwrap(), "mine\n");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&user, &path).unwrap();
        assert!(check(folder.path()).is_err() && MetricsLog::open(folder.path(), 1).is_err());
        assert_eq!(std::fs::read_to_string(&user).unwrap(), "mine\n");
    }
}
