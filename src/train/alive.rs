//! Whether a run still learns: numbers that are not finite, models that give every token the same probability, gradients that do not arrive.

use super::Run;
use super::checkpoint;
use super::options::TrainOptions;
use crate::data::Batch;
use crate::{Error, Result};

impl Run<'_> {
    /// Stops at the first number that is not finite: what follows it would be noise.
    pub(super) fn check_finite(&self, what: &str, value: f64, step: u64, batches: &[Batch]) -> Result<()> {
        match value.is_finite() {
            true => Ok(()),
            false => {
                let records: Vec<usize> = batches.iter().flat_map(|batch| batch.lines.iter().copied()).collect();
                let problem = format!("the {what} is {value} on {}", self.prepared.data.report.located(&records));
                Err(self.diverged(step, problem, step > 1))
            }
        }
    }

    /// The error of a run that has left the numbers; `updated`: whether an update has been made that may be the cause.
    pub(super) fn diverged(&self, step: u64, problem: String, updated: bool) -> Error {
        let TrainOptions { out, max_grad_norm, init_adapter, .. } = &self.prepared.options;
        let mut proposal = if updated {
            let clipping = if *max_grad_norm == 0.0 { ", or with clipping (--max-grad-norm 1)" } else { "" };
            format!("start again in another --out with a lower --learning-rate{clipping}")
        } else {
            let adapter = if init_adapter.is_some() { " with the adapter of --init-adapter" } else { "" };
            format!(
                "no update has been made yet, so the model{adapter} gives this by itself: try --weights f32 and --matmul f32, which \
                 overflow last, and see what `graftling eval` says on the same data"
            )
        };
        if let Ok(Some((folder, _))) = checkpoint::latest(out) {
            proposal += &format!("; --init-adapter {} builds on the last good checkpoint", folder.display());
        }
        Error::Diverged { place: format!("step {step}"), problem, proposal }
    }

    /// Whether the model gives every token the same probability. Trained weights never do; zeroed ones do.
    pub(super) fn is_indifferent(&self, loss: f64) -> bool {
        let indifferent = (self.prepared.model.tokens as f64).ln();
        (loss - indifferent).abs() <= 1e-6 * indifferent
    }

    /// Says so if the model is dead; fails if it cannot learn either.
    pub(super) fn check_alive(&self, loss: f64, grad_norm: f64) -> Result<()> {
        let vocabulary = self.prepared.model.tokens;
        match (self.is_indifferent(loss), grad_norm == 0.0) {
            (true, true) => {
                let problem = format!(
                    "the loss is {loss:.4}, the logarithm of the vocabulary ({vocabulary}), and no gradient arrives: the model gives \
                     every token the same probability and cannot learn"
                );
                let proposal = "its weights are zero or constant: download or convert the model again";
                Err(Error::failed("step 1", problem, proposal))
            }
            (true, false) => {
                self.progress.note(&format!(
                    "warning: the loss is {loss:.4}, the logarithm of the vocabulary ({vocabulary}): the model gives every token the \
                     same probability, as one does whose weights are zero or constant"
                ));
                Ok(())
            }
            (false, true) => {
                self.progress.note("warning: no gradient arrives at the adapter in step 1");
                Ok(())
            }
            (false, false) => Ok(()),
        }
    }
}
