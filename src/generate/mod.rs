//! Text from a model: keys and values of earlier tokens stay in a cache on the device, so each new token costs one row.

pub mod sampling;

use crate::adapter::DeviceAdapter;
use crate::graph::{Counts, ShapeError, ValueId};
use crate::model::config::ModelConfig;
use crate::model::llama::{Head, Inputs, Llama, Purpose};
use crate::model::weights::DeviceWeights;
use crate::plan::{Executable, Pinned};
use crate::{Error, Result};
use std::sync::Arc;

/// Rows of the prompt that are taken at one time.
const PREFILL_ROWS: usize = 128;

/// The graph for a number of rows: many for the prompt, one for each new token. Both share the cache.
struct Stage {
    inputs: Inputs,
    logits: ValueId,
    executable: Executable,
}

impl Stage {
    fn new(
        weights: &DeviceWeights,
        config: &ModelConfig,
        adapter: Option<&DeviceAdapter>,
        cache: usize,
        rows: usize,
        caches: &mut Vec<Pinned>,
    ) -> Result<Self> {
        let lora = adapter.map(|adapter| &adapter.spec);
        let model = Llama::build(config, &|name| weights.dtype(name), lora, Purpose::Generate { cache }, rows)?;
        let Head::Logits(logits) = model.head else {
            return Err(ShapeError::new("llama", "the head", "a loss", "logits").into());
        };
        let mut pinned = weights.pinned(&model, config)?;
        if let Some(adapter) = adapter {
            pinned.extend(adapter.layout.pinned(&adapter.parameters, &model.adapters));
        }
        for (index, &id) in model.caches.iter().enumerate() {
            if caches.len() <= index {
                caches.push(weights.device().allocate(&model.graph[id].name, model.graph[id].tensor.max_bytes())?.into());
            }
            pinned.insert(id, caches[index].clone());
        }
        let executable = Executable::new(weights.device().clone(), model.graph, &[logits], pinned)?;
        Ok(Self { inputs: model.inputs, logits, executable })
    }

    /// Runs `ids`, of which the first stands at `position`; logits of the last.
    fn run(&mut self, ids: &[u32], position: usize) -> Result<Vec<f32>> {
        let positions: Vec<u32> = (position as u32..).take(ids.len()).collect();
        self.executable.write(self.inputs.input_ids, ids);
        self.executable.write(self.inputs.position, &positions);
        self.executable.write(self.inputs.segment_start, &vec![0_u32; ids.len()]);
        self.executable.write(self.inputs.rows, &[ids.len() as u32 - 1]);
        self.executable.run(&Counts { tokens: ids.len(), supervised: 1 })?;
        let vocabulary = self.executable.graph()[self.logits].tensor.shape.columns;
        self.executable.read(self.logits, vocabulary)
    }
}

/// A model, adapted or not, that continues a sequence of tokens.
pub struct Generator {
    prefill: Stage,
    decode: Stage,
    /// Tokens that fit.
    capacity: usize,
    /// Tokens so far.
    length: usize,
}

impl Generator {
    /// Prepares sequences of at most `capacity` tokens, prompt included.
    ///
    /// # Errors
    /// If the device cannot hold it.
    pub fn new(weights: &Arc<DeviceWeights>, config: &ModelConfig, adapter: Option<&DeviceAdapter>, capacity: usize) -> Result<Self> {
        let mut caches = Vec::new();
        let prefill = Stage::new(weights, config, adapter, capacity, PREFILL_ROWS.min(capacity), &mut caches)?;
        let decode = Stage::new(weights, config, adapter, capacity, 1, &mut caches)?;
        Ok(Self { prefill, decode, capacity, length: 0 })
    }

    /// Forgets the sequence so far.
    pub fn reset(&mut self) {
        self.length = 0;
    }

    /// Tokens so far.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Tokens that still fit.
    pub fn room(&self) -> usize {
        self.capacity - self.length
    }

    /// Appends tokens to the sequence and returns the logits of what follows, one for each token of the vocabulary.
    ///
    /// # Errors
    /// If there is no token, the tokens do not fit, or the device is lost.
    pub fn feed(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        if ids.is_empty() || ids.len() > self.room() {
            return Err(Error::bad_input(
                "prompt",
                format!("{} tokens, where between 1 and {} fit", ids.len(), self.room()),
                "give a prompt that is not empty, and shorter than the model's context with --max-new-tokens",
            ));
        }
        let rows = PREFILL_ROWS.min(self.capacity);
        let mut logits = Vec::new();
        for chunk in ids.chunks(rows) {
            let stage = if chunk.len() == 1 { &mut self.decode } else { &mut self.prefill };
            logits = stage.run(chunk, self.length)?;
            self.length += chunk.len();
        }
        Ok(logits)
    }
}
