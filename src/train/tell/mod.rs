//! What a run tells besides its bar, metrics and curve.
//!
//! * this page: [`Watch`], for whoever wants to see each step; it hangs on the loop from outside, and changes no number;
//! * [`about`]: what the run is, in its folder, for programs that look at it from outside;
//! * [`tensorboard`]: the metrics as event files of TensorBoard.

pub mod about;
pub mod tensorboard;

use std::time::{SystemTime, UNIX_EPOCH};

use super::metrics::StepMetrics;
use super::trainer::Trainer;
use crate::Result;

/// Answers of the model while it is trained, in the output folder; who asks it is above this module.
pub const SAMPLES_FILE: &str = "samples.jsonl";

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Sees a run step by step.
pub trait Watch {
    /// A step is done, and its numbers have arrived and are finite. The `trainer` has the adapter as of after its update.
    ///
    /// # Errors
    /// What ends the run. What can be done without, such as a picture, is better told of and passed over.
    fn step(&mut self, metrics: &StepMetrics, trainer: &Trainer) -> Result<()>;

    /// What is measured after a step has been now: the run was stopped before it was, and goes on.
    ///
    /// # Errors
    /// As [`Watch::step`].
    fn measured(&mut self, _metrics: &StepMetrics) -> Result<()> {
        Ok(())
    }
}
