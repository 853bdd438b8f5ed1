//! How fast this device trains, by a measurement that takes seconds: what predicted times are made of.

use std::sync::Arc;
use std::time::Instant;

use super::memory::StepShape;
use super::needs::Planned;
use super::prepare::Prepared;
use super::step::Recompute;
use super::trainer::Trainer;
use crate::Result;
use crate::adapter::DeviceAdapter;
use crate::architecture::Architecture;
use crate::data::{Batch, Example};
use crate::model::weights::DeviceWeights;

/// Tokens of the measured batch: enough for the kernels of a full one to be busy, few enough for a device that does a hundred a second.
const TOKENS: usize = 160;

impl Prepared<'_> {
    /// Floating-point operations a second that forward and backward of this run reach: a batch of a few records is done twice, the second
    /// time against the clock. Nothing is written, and the run is as it was.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) with the plan's figures; the device is lost.
    pub fn measure_rate(&self, weights: Arc<DeviceWeights>) -> Result<f64> {
        let examples = &self.data.examples;
        let mut tokens = 0;
        let few = examples.iter().take_while(|example| {
            let fits = tokens == 0 || tokens + example.input_ids.len() <= TOKENS.min(self.planner.shape().max_tokens);
            tokens += example.input_ids.len();
            fits
        });
        let chosen: Vec<usize> = (0..few.count()).collect();
        let batch = Batch::assemble(examples, &chosen);
        let mut trainer = self.engine(weights, false, None).map_err(|error| self.explained(error))?.trainer;
        let weight = 1.0 / batch.targets.len().max(1) as f64;
        // Compiles kernels, and fills the prefix cache, as the first epoch of a run does.
        trainer.accumulate(&batch, weight, true)?;
        let started = Instant::now();
        trainer.accumulate(&batch, weight, true)?;
        Ok(self.flops_of(&batch) / started.elapsed().as_secs_f64())
    }
}

/// Floating-point operations a second that forward and backward of an adapter like the planned one reach on these tokens: as
/// [`Prepared::measure_rate`], where there is no data yet.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory); the device is lost.
pub fn measure(weights: Arc<DeviceWeights>, config: &Architecture, planned: &Planned, ids: &[u32]) -> Result<f64> {
    let ids = &ids[..ids.len().min(TOKENS)];
    let example = Example { input_ids: ids.to_vec(), labels: ids.iter().copied().map(Some).collect(), line: 1 };
    let batch = Batch::assemble(&[example], &[0]);
    let shape = StepShape { max_tokens: ids.len(), accumulate: false, recompute: Recompute::None, held_out_tokens: 0 };
    let adapter = DeviceAdapter::fresh(weights.device().clone(), planned.placement.clone(), 0)?;
    let mut trainer = Trainer::new(weights, config, adapter, shape, 0, None)?;
    let weight = 1.0 / batch.targets.len().max(1) as f64;
    // Compiles kernels.
    trainer.accumulate(&batch, weight, true)?;
    let started = Instant::now();
    trainer.accumulate(&batch, weight, true)?;
    let flops = planned.flops() / planned.tokens() as f64 * ids.len() as f64;
    Ok(flops / started.elapsed().as_secs_f64())
}
