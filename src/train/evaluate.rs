//! Loss without training: each supervised token's negative log-likelihood.

use super::step::write_batch;
use super::trainer::Trainer;
use crate::Result;
use crate::adapter::DeviceAdapter;
use crate::data::Batch;
use crate::graph::{ShapeError, ValueId};
use crate::model::config::ModelConfig;
use crate::model::llama::{Head, Inputs, Llama, Purpose};
use crate::model::weights::DeviceWeights;
use crate::plan::Executable;
use std::sync::Arc;

/// A model, adapted or not, that evaluates batches.
pub struct Evaluator {
    inputs: Inputs,
    nll: ValueId,
    executable: Executable,
}

impl Evaluator {
    /// Prepares batches of at most `max_tokens` tokens.
    ///
    /// # Errors
    /// If the device cannot hold it.
    pub fn new(
        weights: Arc<DeviceWeights>,
        config: &ModelConfig,
        adapter: Option<&DeviceAdapter>,
        max_tokens: usize,
    ) -> Result<Self> {
        Self::beside(None, weights, config, adapter, max_tokens)
    }

    /// Prepares evaluation between the steps of a training run, in the memory of its activations.
    ///
    /// # Errors
    /// If the device cannot hold it.
    pub fn between_steps(
        trainer: &Trainer,
        weights: Arc<DeviceWeights>,
        config: &ModelConfig,
        max_tokens: usize,
    ) -> Result<Self> {
        Self::beside(Some(trainer.step()), weights, config, Some(trainer.adapter()), max_tokens)
    }

    fn beside(
        other: Option<&Executable>,
        weights: Arc<DeviceWeights>,
        config: &ModelConfig,
        adapter: Option<&DeviceAdapter>,
        max_tokens: usize,
    ) -> Result<Self> {
        let lora = adapter.map(|adapter| &adapter.spec);
        let model = Llama::build(config, &|name| weights.dtype(name), lora, Purpose::Evaluate, max_tokens)?;
        let Head::Loss { nll, loss } = model.head else {
            return Err(ShapeError::new("llama", "the head", "logits", "a loss").into());
        };
        let mut pinned = weights.pinned(&model, config)?;
        if let Some(adapter) = adapter {
            pinned.extend(adapter.layout.pinned(&adapter.parameters, &model.adapters));
        }
        let executable = Executable::beside(other, weights.device().clone(), model.graph, &[loss, nll], pinned)?;
        Ok(Self { inputs: model.inputs, nll, executable })
    }

    /// -log p of each supervised token, natural logarithm, in the order of `batch.targets`.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn token_nll(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        if batch.supervised_rows.is_empty() {
            return Ok(Vec::new());
        }
        let counts = write_batch(&self.executable, &self.inputs, batch, 1.0 / batch.targets.len() as f64);
        self.executable.run(&counts)?;
        self.executable.read(self.nll, counts.supervised)
    }
}
