//! `metrics.jsonl`: one object a step, and never a step twice.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files;
use crate::formats::atomic;
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
    /// GPU memory that the engine has allocated, in bytes.
    pub gpu_bytes: u64,
    /// Mean loss on the held-out data after the update, in the steps that evaluate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
}

/// The open file and all that it holds.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    history: Vec<StepMetrics>,
}

impl MetricsLog {
    /// Opens `folder/metrics.jsonl` for a run that has done `step` steps (0 for a new one). What the file says about later steps,
    /// and a last line that a kill has torn, is cut off.
    ///
    /// # Errors
    /// Failed, when the file cannot be read or written.
    pub fn open(folder: &Path, step: u64) -> Result<Self> {
        let path = folder.join(METRICS_FILE);
        let written = match files::read(&path, files::ANY) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(&path, &error)),
        };
        let (history, kept) = read_until(&written, step);
        if kept < written.len() {
            atomic::write_atomically(&path, &written[..kept])?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(|error| failed(&path, &error))?;
        Ok(Self { path, file, history })
    }

    /// Adds one step: one write of one line.
    ///
    /// # Errors
    /// Failed, when the file cannot be written.
    pub fn append(&mut self, metrics: StepMetrics) -> Result<()> {
        let mut line = serde_json::to_string(&metrics).map_err(|error| failed(&self.path, &error))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|error| failed(&self.path, &error))?;
        self.history.push(metrics);
        Ok(())
    }

    /// Forces what was written to disk; done before each checkpoint, so that none is ahead of its metrics.
    ///
    /// # Errors
    /// Failed, when the disk is full or gone.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| failed(&self.path, &error))
    }

    /// All steps of the run so far, also those before a resume.
    pub fn history(&self) -> &[StepMetrics] {
        &self.history
    }
}

/// The whole lines of `bytes` up to and including `step`, and how many bytes they take. Reading ends at the first line that is
/// torn or that does not go on from the one before.
fn read_until(bytes: &[u8], step: u64) -> (Vec<StepMetrics>, usize) {
    let (mut history, mut kept) = (Vec::<StepMetrics>::new(), 0);
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let Ok(metrics) = serde_json::from_slice::<StepMetrics>(line) else { break };
        let follows = history.last().is_none_or(|last| metrics.step > last.step);
        if !line.ends_with(b"\n") || metrics.step > step || !follows {
            break;
        }
        kept += line.len();
        history.push(metrics);
    }
    (history, kept)
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::failed(path.display(), format!("cannot write the metrics: {error}"), "free some disk space, then go on with --resume")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64, loss: f64) -> StepMetrics {
        StepMetrics {
            step,
            loss,
            learning_rate: 1e-4,
            grad_norm: 0.5,
            tokens: 512,
            supervised_tokens: 300,
            tokens_per_second: 99.5,
            gpu_bytes: 1 << 30,
            eval_loss: step.is_multiple_of(2).then_some(1.5),
        }
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
            let complete = lines.iter().take(3).filter(|&&end| end <= length).count();
            assert_eq!(log.history().iter().map(|metrics| metrics.loss).collect::<Vec<_>>(), losses[..complete]);
            let kept = if complete == 0 { 0 } else { lines[complete - 1] };
            assert_eq!(std::fs::read(&path).unwrap(), whole[..kept]);
        }
    }
}
