//! The model, token by token: keys and values of earlier tokens rest in a cache, so each new token costs one row.
//!
//! Two graphs share the cache. *Prefill* reads the prompt in chunks of up to `PREFILL_ROWS` rows; *decode* has one row, so that its
//! kernels can be those for a matrix times a vector. A row sees the cache rows `0 ..= its own position`, so what an earlier
//! conversation left behind them is never read.

use std::collections::HashMap;
use std::ops::ControlFlow;

use super::sampling::Sampler;
use crate::adapter::{Adapted, DeviceAdapter, Placement, Preparation};
use crate::architecture::Architecture;
use crate::gpu::Slice;
use crate::graph::{Counts, ShapeError, ValueId};
use crate::model::graph::{Head, Inputs, Model, Part, Purpose, StorageOf};
use crate::model::weights::DeviceWeights;
use crate::plan::{Executable, fuse_adapters};
use crate::session::batch::write_rotation;
use crate::session::{Session, Use};
use crate::{Error, Result};

/// Rows of the prompt that go through the model together.
const PREFILL_ROWS: usize = 256;

/// What a session is opened for: texts of at most so many tokens, prompt and answer together.
#[derive(Clone, Copy, Debug)]
pub struct Generation {
    pub context: usize,
}

impl Use for Generation {
    fn models(&self, config: &Architecture, storage: StorageOf, placement: Option<&Placement>) -> Result<Vec<Model>> {
        Generator::models(config, storage, placement, self.context)
    }

    fn smaller(&self) -> &'static str {
        "fewer --max-new-tokens, or a shorter prompt"
    }
}

/// A model, adapted or not, with the text that it has read so far.
pub struct Generator {
    prefill: Pass,
    decode: Pass,
    /// What both take of weights and adapter as computed, run at the beginning of a text.
    preparation: Option<Executable>,
    /// Tokens that there are, with those that the adapter adds.
    tokens: usize,
    /// Rows of the cache: the most tokens of prompt and answer together.
    context: usize,
    /// Tokens in the cache.
    seen: Vec<u32>,
    /// Whether what is in the cache depends on the length of the text that it was read as a part of.
    by_length: bool,
}

impl Generator {
    /// Prepares for texts of at most `context` tokens, prompt and answer together. `adapter` is shared, not copied: training it
    /// changes what is generated.
    ///
    /// # Errors
    /// Failed: the device has not the memory.
    pub fn new(weights: &DeviceWeights, config: &Architecture, adapter: Option<&DeviceAdapter>, context: usize) -> Result<Self> {
        let context = clamped(context, config);
        let mut shared = Shared::default();
        let prefill = Pass::new(weights, config, adapter, PREFILL_ROWS.min(context), context, &mut shared)?;
        let decode = Pass::new(weights, config, adapter, 1, context, &mut shared)?;
        let preparation = shared.preparation;
        let by_length = config.ropes.iter().any(|rope| rope.changes_beyond().is_some());
        let tokens = decode.tokens;
        Ok(Self { prefill, decode, preparation, tokens, context, seen: Vec::new(), by_length })
    }

    /// [`Generator::new`] with the model and the adapter of a session that was opened for it.
    ///
    /// # Errors
    /// Failed: the device has not the memory.
    pub fn of(session: &Session, used: Generation) -> Result<Self> {
        Self::new(session.weights(), session.config(), session.adapter(), used.context)
    }

    /// The models that a generator for such texts runs, which are known before there is a device.
    ///
    /// # Errors
    /// If the configuration contradicts itself.
    pub fn models(
        config: &Architecture,
        storage: StorageOf,
        placement: Option<&Placement>,
        context: usize,
    ) -> Result<Vec<Model>> {
        let context = clamped(context, config);
        let model = |rows| Ok(fused(config, storage, placement, context, rows)?.0.model);
        [PREFILL_ROWS.min(context), 1].into_iter().map(model).collect()
    }

    /// Puts the adapter that it was made with at another strength in its place; the text is forgotten. Gives whether it was: where that is
    /// another computation, it has to be made anew.
    ///
    /// # Errors
    /// None for the model and an adapter that it was made with.
    pub fn rescale(&mut self, weights: &DeviceWeights, config: &Architecture, adapter: &DeviceAdapter) -> Result<bool> {
        self.reset();
        for pass in [&mut self.prefill, &mut self.decode] {
            let (storage, placement) = (|name: &str| weights.dtype(name), Some(&adapter.placement));
            let (adapted, _) = fused(config, &storage, placement, self.context, pass.rows)?;
            if !pass.executable.renumber(adapted.model.graph) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The text that it has read.
    pub fn seen(&self) -> &[u32] {
        &self.seen
    }

    /// Forgets the text.
    pub fn reset(&mut self) {
        self.seen.clear();
    }

    /// Reads `ids` after what has been read before, and gives the logits `[tokens]` of the token that follows.
    ///
    /// # Errors
    /// Bad input: no ids, an id that the model does not have, more tokens than the context holds. Failed: the device is lost.
    pub fn read(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.tokens) {
            let problem = format!("the token id {id} is not one of the model's {}", self.tokens);
            return Err(Error::bad_input("prompt", problem, "the tokenizer and the weights do not belong together"));
        }
        if ids.is_empty() {
            return Err(Error::bad_input("prompt", "it has no tokens", "give at least one character"));
        }
        let length = self.seen.len() + ids.len();
        if length > self.context {
            let problem = format!("{length} tokens are more than the {} that fit", self.context);
            return Err(Error::bad_input("prompt", problem, "give a shorter prompt, or a model with a longer context"));
        }
        if let Some(preparation) = self.preparation.as_mut().filter(|_| self.seen.is_empty()) {
            preparation.run(&Counts::default())?;
        }
        let mut logits = Vec::new();
        for chunk in ids.chunks(self.prefill.rows) {
            let pass = if chunk.len() == 1 { &mut self.decode } else { &mut self.prefill };
            logits = pass.run(chunk, self.seen.len(), length)?;
            self.seen.extend(chunk);
        }
        Ok(logits)
    }

    /// Continues `prompt`, from an empty cache, until a token of `ends`, `max_new_tokens`, or the end of the context. The ending
    /// token is given as well. `each` is told every token as it comes.
    ///
    /// # Errors
    /// As [`Generator::read`] and [`Sampler::sample`], and whatever `each` gives.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        sampler: &mut Sampler,
        max_new_tokens: usize,
        ends: &[u32],
        mut each: impl FnMut(u32) -> Result<()>,
    ) -> Result<Vec<u32>> {
        self.reset();
        self.go_on(prompt, sampler, max_new_tokens, ends, |id| each(id).map(|()| ControlFlow::Continue(())))
    }

    /// [`Generator::generate`] for a text of which the beginning may be in the cache already: that is not read again. `each` may end the
    /// answer.
    ///
    /// # Errors
    /// As [`Generator::generate`].
    pub fn go_on(
        &mut self,
        prompt: &[u32],
        sampler: &mut Sampler,
        max_new_tokens: usize,
        ends: &[u32],
        mut each: impl FnMut(u32) -> Result<ControlFlow<()>>,
    ) -> Result<Vec<u32>> {
        let mut answer = Vec::new();
        if max_new_tokens == 0 {
            return Ok(answer);
        }
        let same = self.seen.iter().zip(prompt).take_while(|(seen, id)| seen == id).count();
        // The last token is read in any case: its logits are wanted.
        self.seen.truncate(if self.by_length { 0 } else { same.min(prompt.len().saturating_sub(1)) });
        let mut logits = self.read(&prompt[self.seen.len()..])?;
        loop {
            let next = sampler.sample(&logits)?;
            answer.push(next);
            let stopped = each(next)?.is_break();
            if stopped || ends.contains(&next) || answer.len() == max_new_tokens || self.seen.len() == self.context {
                return Ok(answer);
            }
            logits = self.read(&[next])?;
        }
    }
}

/// The cache holds at least one row, and no more than the model can tell apart.
fn clamped(context: usize, config: &Architecture) -> usize {
    context.clamp(1, config.context().max(1))
}

/// The model that gives logits for a fixed maximum of rows, and these.
fn fused(
    config: &Architecture,
    storage: StorageOf,
    placement: Option<&Placement>,
    context: usize,
    rows: usize,
) -> Result<(Adapted, ValueId)> {
    let mut adapted = Adapted::build(config, storage, placement, Purpose::Generate { cache: context }, Part::Whole, rows)?;
    let Head::Logits(logits) = adapted.model.head else {
        return Err(ShapeError::new("model", "the head", "a loss", "logits").into());
    };
    adapted.model.graph = fuse_adapters(&adapted.model.graph, &[logits]);
    Ok((adapted, logits))
}

/// The model's graph for a fixed maximum of rows, ready to run.
struct Pass {
    inputs: Inputs,
    logits: ValueId,
    /// Columns of the logits.
    tokens: usize,
    executable: Executable,
    rows: usize,
}

/// What the first pass makes and the next one shares.
#[derive(Default)]
struct Shared {
    caches: Vec<Slice>,
    prepared: Vec<Slice>,
    preparation: Option<Executable>,
}

impl Pass {
    /// `shared`: made by the first pass, used by the next.
    fn new(
        weights: &DeviceWeights,
        config: &Architecture,
        adapter: Option<&DeviceAdapter>,
        rows: usize,
        context: usize,
        shared: &mut Shared,
    ) -> Result<Self> {
        let placement = adapter.map(|adapter| &adapter.placement);
        let (adapted, logits) = fused(config, &|name| weights.dtype(name), placement, context, rows)?;
        let Adapted { model, leaves, .. } = adapted;
        let device = weights.device().clone();
        let first = shared.caches.is_empty();
        if first {
            for &cache in &model.caches {
                let value = &model.graph[cache];
                shared.caches.push(device.allocate(&value.name, value.tensor.max_bytes())?);
            }
        }
        let mut pinned: HashMap<_, _> = weights.pinned(&model, config)?;
        pinned.extend(model.caches.iter().zip(&shared.caches).map(|(&id, slice)| (id, slice.clone().into())));
        if let Some(adapter) = adapter {
            pinned.extend(adapter.pinned(&model.graph, &leaves));
        }
        if let Some(Preparation { graph, leaves: of, outputs }) = leaves.preparation(&model.graph)?.filter(|_| first) {
            let mut own: HashMap<_, _> = of.iter().map(|(own, other)| (*own, pinned[other].clone())).collect();
            for &output in &outputs {
                let slice = device.allocate(&graph[output].name, graph[output].tensor.max_bytes())?;
                own.insert(output, slice.clone().into());
                shared.prepared.push(slice);
            }
            shared.preparation = Some(Executable::new(weights.place(), graph, &outputs, own)?);
        }
        let filled = leaves.prepared.iter().zip(&shared.prepared);
        pinned.extend(filled.map(|(prepared, slice)| (prepared.value, slice.clone().into())));
        let tokens = model.graph[logits].tensor.shape.columns;
        let executable = Executable::new(weights.place(), model.graph, &[logits], pinned)?;
        Ok(Self { inputs: model.inputs, logits, tokens, executable, rows })
    }

    /// Runs `ids` at the positions from `first` on; gives the logits of the last one. `length`: tokens of the text when all are read that
    /// are read at one time, as transformers counts it.
    fn run(&mut self, ids: &[u32], first: usize, length: usize) -> Result<Vec<f32>> {
        let positions: Vec<u32> = (first as u32..).take(ids.len()).collect();
        self.executable.write(self.inputs.input_ids, ids);
        self.executable.write(self.inputs.position, &positions);
        self.executable.write(self.inputs.segment_start, &vec![0u32; ids.len()]);
        write_rotation(&self.executable, &self.inputs, positions.iter().map(|&position| (position, length)));
        self.executable.write(self.inputs.rows, &[ids.len() as u32 - 1]);
        self.executable.run(&Counts { tokens: ids.len(), supervised: 1 })?;
        self.executable.read(self.logits, self.tokens)
    }
}
