//! Loss without training: each supervised token's negative log-likelihood.

use super::Use;
use super::batch::write_batch;
use super::prefix_cache::PrefixCache;
use crate::Result;
use crate::adapter::{Adapted, DeviceAdapter, Placement};
use crate::architecture::Architecture;
use crate::data::Batch;
use crate::graph::{ShapeError, ValueId};
use crate::model::graph::{Head, Inputs, Model, Part, Purpose, StorageOf};
use crate::model::weights::DeviceWeights;
use crate::plan::Executable;
use std::sync::Arc;

/// What a session is opened for: losses of batches of at most so many tokens.
#[derive(Clone, Copy, Debug)]
pub struct Evaluation {
    pub max_tokens: usize,
}

impl Use for Evaluation {
    fn models(&self, config: &Architecture, storage: StorageOf, placement: Option<&Placement>) -> Result<Vec<Model>> {
        Ok(vec![Evaluator::model(config, storage, placement, self.max_tokens)?])
    }

    fn smaller(&self) -> &'static str {
        "a smaller --max-length, if records are long"
    }
}

/// Losses of tokens, added up: each token counts once, whatever batch it is in.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenLosses {
    /// Nats.
    pub sum: f64,
    /// How many there are.
    pub tokens: usize,
}

impl TokenLosses {
    /// Adds what [`Evaluator::token_nll`] gives.
    pub fn add(&mut self, nll: &[f32]) {
        self.sum += nll.iter().map(|&nll| f64::from(nll)).sum::<f64>();
        self.tokens += nll.len();
    }

    /// Those of one batch.
    pub fn of(nll: &[f32]) -> Self {
        let mut losses = Self::default();
        losses.add(nll);
        losses
    }

    /// Their mean; NaN of none.
    pub fn mean(&self) -> f64 {
        self.sum / self.tokens as f64
    }
}

/// A model, adapted or not, that evaluates batches.
pub struct Evaluator {
    inputs: Inputs,
    nll: ValueId,
    executable: Executable,
    /// Runs, or remembers, the layers below `executable`.
    prefix: Option<PrefixCache>,
}

impl Evaluator {
    /// Prepares batches of at most `max_tokens` tokens.
    ///
    /// # Errors
    /// If the device cannot hold it.
    pub fn new(
        weights: Arc<DeviceWeights>,
        config: &Architecture,
        adapter: Option<&DeviceAdapter>,
        max_tokens: usize,
    ) -> Result<Self> {
        Self::beside(None, weights, config, adapter, max_tokens, None)
    }

    /// Prepares evaluation between the runs of `step`, in the memory of its activations. `prefix`: what gives the hidden states that
    /// enter the lowest adapted layer, where that is not the work of every evaluation.
    ///
    /// # Errors
    /// If the device cannot hold it.
    pub fn between_steps(
        step: &Executable,
        weights: Arc<DeviceWeights>,
        config: &Architecture,
        adapter: &DeviceAdapter,
        max_tokens: usize,
        prefix: Option<PrefixCache>,
    ) -> Result<Self> {
        Self::beside(Some(step), weights, config, Some(adapter), max_tokens, prefix)
    }

    fn beside(
        other: Option<&Executable>,
        weights: Arc<DeviceWeights>,
        config: &Architecture,
        adapter: Option<&DeviceAdapter>,
        max_tokens: usize,
        prefix: Option<PrefixCache>,
    ) -> Result<Self> {
        let placement = adapter.map(|adapter| &adapter.placement);
        let part = Part::above(prefix.as_ref().map(PrefixCache::first_layer));
        let adapted = Adapted::build(config, &|name| weights.dtype(name), placement, Purpose::Evaluate, part, max_tokens)?;
        let Adapted { model, leaves, .. } = adapted;
        let Head::Loss { nll, loss } = model.head else {
            return Err(ShapeError::new("model", "the head", "logits", "a loss").into());
        };
        let mut pinned = weights.pinned(&model, config)?;
        if let Some(adapter) = adapter {
            pinned.extend(adapter.pinned(&model.graph, &leaves));
        }
        let hidden = model.inputs.hidden.zip(prefix.as_ref());
        pinned.extend(hidden.map(|(id, prefix)| (id, prefix.hidden().clone().into())));
        let executable = Executable::beside(other, weights.place(), model.graph, &[loss, nll], pinned)?;
        Ok(Self { inputs: model.inputs, nll, executable, prefix })
    }

    /// What is run, which is known before there is a device.
    ///
    /// # Errors
    /// If the configuration contradicts itself.
    pub fn model(config: &Architecture, storage: StorageOf, placement: Option<&Placement>, max_tokens: usize) -> Result<Model> {
        Ok(Adapted::build(config, storage, placement, Purpose::Evaluate, Part::Whole, max_tokens)?.model)
    }

    /// -log p of each supervised token, natural logarithm, in the order of `batch.targets`.
    ///
    /// # Errors
    /// If the device is lost; as [`PrefixCache::provide`].
    pub fn token_nll(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        if batch.supervised_rows.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(prefix) = &mut self.prefix {
            prefix.provide(batch)?;
        }
        let counts = write_batch(&self.executable, &self.inputs, batch, 1.0 / batch.targets.len() as f64);
        self.executable.run(&counts)?;
        self.executable.read(self.nll, counts.supervised)
    }
}

#[cfg(test)]
mod tests {
    use super::TokenLosses;

    #[test]
    fn a_held_out_loss_is_the_mean_over_tokens_and_not_over_batches() {
        // The mean of the batches' means would be 2.5.
        let mut losses = TokenLosses::default();
        [vec![1.0], vec![4.0, 4.0, 4.0], Vec::new()].iter().for_each(|batch| losses.add(batch));
        assert_eq!(losses.mean(), 3.25);
    }
}
