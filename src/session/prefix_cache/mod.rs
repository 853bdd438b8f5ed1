//! The frozen prefix: the layers below the lowest adapted one are run once for each example, and what they give is kept.
//!
//! No adapter and no dropout lies below that layer, so the hidden states `[tokens, hidden_size]` that enter it are the same in every
//! epoch. The model is therefore built in two [parts](crate::model::graph::Part) that share one buffer, the hidden states. The part
//! below runs for the examples that are not stored yet; the part above, which has the whole backward pass, runs for every batch, and a
//! batch whose examples are all stored needs nothing else.
//!
//! **Key.** States are kept by example and not by batch, so shuffling and packing may put an example beside others in every epoch.
//! That gives bitwise the losses of the whole model because a row's states depend on nothing but the rows of its own example: embedding,
//! norm, rope and glu work on each row alone; every matmul kernel adds the products of an output along k in an order that does not
//! depend on where the output stands; attention adds over the keys of the row's own segment, in blocks that begin where the segment
//! does; and which kernel runs follows from the largest number of rows, which all runs have in common. The tests `prefix_cache` compare
//! rows of different packings bit by bit, with the kernels for each kind of device.
//!
//! **Bound.** Examples are stored until the bound is full, in the order of the file; the prefix then runs for the others in every
//! epoch, as a batch of those examples alone. Nothing is thrown out: each epoch sees every example once, so that what would be thrown
//! out is as likely to be needed next as what would take its place.
//!
//! **Types.** bf16 and f16 take half of the room and round. Values are rounded when they are made, whether they are stored or not, so a
//! run has the same numbers under any bound and after any interruption. The cache itself is never saved: a run that goes on fills it anew.

mod plan;
mod shelf;
mod store;

pub use plan::{Lowest, PrefixCacheMode, PrefixCacheOptions, PrefixCachePlan, Seen};
pub use shelf::Shelf;
pub use store::{PrefixCacheType, Store, StorePlan};

use std::collections::HashSet;
use std::iter::repeat_n;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Result;
use crate::architecture::Architecture;
use crate::data::{Batch, Dataset};
use crate::gpu::{Device, Slice, padded};
use crate::graph::{Counts, Origin, ShapeError, ValueId};
use crate::kernel::Facts;
use crate::model::graph::{Head, Inputs, Model, Part, Purpose, StorageOf};
use crate::model::hook::Bare;
use crate::model::weights::DeviceWeights;
use crate::plan::{Executable, Plan};
use crate::session::batch::write_rotation;
use crate::session::memory::rope_bytes;
use shelf::Of;

/// The layers below the lowest adapted one on a device, and the store of what they gave.
pub struct PrefixCache {
    device: Arc<Device>,
    first_layer: usize,
    inputs: Inputs,
    executable: Executable,
    rope_bytes: usize,
    /// `[tokens, hidden_size]` f32: the prefix's output and the input of the layers above.
    hidden: Slice,
    store: Arc<Mutex<Store>>,
    /// Host copy of `hidden` for the batch at hand.
    rows: Vec<f32>,
    used: RowsUsed,
}

/// Rows that the layers above the prefix were given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowsUsed {
    pub stored: u64,
    pub computed: u64,
}

impl PrefixCache {
    /// Prepares batches of at most `max_tokens` tokens. `first_layer`: the lowest adapted layer.
    ///
    /// # Errors
    /// If the device cannot hold it.
    pub fn new(
        weights: &DeviceWeights,
        config: &Architecture,
        first_layer: usize,
        max_tokens: usize,
        store: impl Into<Arc<Mutex<Store>>>,
    ) -> Result<Self> {
        let device = weights.device().clone();
        let (model, output) = prefix(config, &|name| weights.dtype(name), first_layer, max_tokens)?;
        let hidden = device.allocate("hidden states", model.graph[output].tensor.max_bytes())?;
        let mut pinned = weights.pinned(&model, config)?;
        pinned.insert(output, hidden.clone().into());
        let (inputs, rope_bytes) = (model.inputs, rope_bytes(&model));
        let executable = Executable::new(weights.place(), model.graph, &[], pinned)?;
        let (rows, used) = (Vec::new(), RowsUsed::default());
        Ok(Self { device, first_layer, inputs, executable, rope_bytes, hidden, store: store.into(), rows, used })
    }

    /// The lowest layer that is left to be run.
    pub fn first_layer(&self) -> usize {
        self.first_layer
    }

    /// Where [`PrefixCache::provide`] puts the hidden states.
    pub fn hidden(&self) -> &Slice {
        &self.hidden
    }

    /// Puts the hidden states that enter the first layer above the prefix into [`PrefixCache::hidden`], for a batch of the data set that
    /// the store was made for.
    ///
    /// # Errors
    /// If the device is lost; bad input, if a hidden state does not fit the type of the store.
    pub fn provide(&mut self, batch: &Batch) -> Result<()> {
        let store = self.store.clone();
        // Whoever else panicked with it left whole examples.
        let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
        let columns = store.columns();
        let values = |rows: &Range<usize>| rows.start * columns..rows.end * columns;
        self.rows.resize(batch.rows() * columns, 0.0);
        let mut missing = Vec::new();
        for (example, rows) in batch.examples.iter().copied().zip(batch.rows_by_example()) {
            let stored = store.load(example, &mut self.rows[values(&rows)]);
            let count = if stored { &mut self.used.stored } else { &mut self.used.computed };
            *count += rows.len() as u64;
            if !stored {
                missing.push((example, rows));
            }
        }
        let mut computed = self.compute(batch, missing.iter().map(|(_, rows)| rows.clone()), columns)?;
        let mut left = &mut computed[..];
        for (example, rows) in missing {
            let (these, others) = left.split_at_mut(rows.len() * columns);
            left = others;
            store.save(example, these)?;
            self.rows[values(&rows)].copy_from_slice(these);
        }
        self.device.write(&self.hidden, bytemuck::cast_slice(&self.rows));
        Ok(())
    }

    /// Runs the prefix for some examples of a batch, given by their rows; gives the hidden states one after the other.
    fn compute(&mut self, batch: &Batch, examples: impl Iterator<Item = Range<usize>>, columns: usize) -> Result<Vec<f32>> {
        let (mut input_ids, mut position, mut segment_start) = (Vec::new(), Vec::new(), Vec::new());
        let mut lengths = Vec::new();
        for rows in examples {
            lengths.extend(repeat_n(rows.len(), rows.len()));
            segment_start.extend(repeat_n(input_ids.len() as u32, rows.len()));
            input_ids.extend_from_slice(&batch.input_ids[rows.clone()]);
            position.extend_from_slice(&batch.position[rows]);
        }
        if input_ids.is_empty() {
            return Ok(Vec::new());
        }
        self.executable.write(self.inputs.input_ids, &input_ids);
        self.executable.write(self.inputs.position, &position);
        self.executable.write(self.inputs.segment_start, &segment_start);
        write_rotation(&self.executable, &self.inputs, position.iter().copied().zip(lengths));
        self.executable.run(&Counts { tokens: input_ids.len(), supervised: 0 })?;
        self.device.read(&self.hidden, input_ids.len() * columns)
    }

    /// Rows that came from the store so far, and rows that were computed.
    pub fn rows_used(&self) -> RowsUsed {
        self.used
    }

    /// Bytes on the device.
    pub fn memory(&self) -> PrefixMemory {
        let activations = self.executable.arena_bytes();
        let inputs = self.executable.own_bytes() - activations;
        PrefixMemory { activations, inputs: inputs + self.hidden.bytes + self.rope_bytes }
    }
}

impl PrefixCachePlan {
    /// The cache of one of the two data sets, `train` or `held_out`; `None` where none is planned. `kept` has
    /// what earlier runs may have stored of this data.
    ///
    /// # Errors
    /// As [`Store::new`] and [`PrefixCache::new`].
    pub fn open(
        &self,
        store: &Option<StorePlan>,
        data: &Dataset,
        kept: Kept,
        weights: &DeviceWeights,
        config: &Architecture,
        max_tokens: usize,
    ) -> Result<Option<PrefixCache>> {
        let Some(plan) = store else { return Ok(None) };
        let of = Of {
            weights: weights.digest().to_string(),
            data: data.fingerprint(),
            first_layer: self.first_layer,
            max_tokens,
            on_disk: self.on_disk,
            plan: plan.clone(),
        };
        let store = kept.shelf.store(of, self.bound, || Store::new(plan, self.on_disk.then_some(kept.folder)))?;
        PrefixCache::new(weights, config, self.first_layer, max_tokens, store).map(Some)
    }
}

/// Where stores are kept.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// Those of earlier runs.
    pub shelf: &'a Shelf,
    /// Where the file of a new one goes, if it is on disk.
    pub folder: &'a Path,
}

/// Bytes that the prefix occupies on the device beside the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixMemory {
    /// Activations and scratch: few, since nothing is kept for a backward pass.
    pub activations: usize,
    /// Token ids, positions, parameters, and the hidden states that the layers above read.
    pub inputs: usize,
}

impl PrefixMemory {
    /// Plans the prefix below `first_layer` from the configuration alone; `facts` decide how many kernel calls there are.
    ///
    /// # Errors
    /// If the configuration contradicts itself.
    pub fn plan(config: &Architecture, storage: StorageOf, first_layer: usize, max_tokens: usize, facts: &Facts) -> Result<Self> {
        let (model, output) = prefix(config, storage, first_layer, max_tokens)?;
        let graph = &model.graph;
        let weights = graph.value_ids().filter(|id| graph[*id].origin == Origin::Weight);
        let pinned: HashSet<ValueId> = weights.chain([output]).collect();
        let plan = Plan::new(graph, &[], &pinned);
        let hidden = padded(graph[output].tensor.max_bytes());
        let inputs = plan.input_bytes(graph) + plan.parameter_bytes(graph, facts);
        Ok(Self { activations: plan.arena_bytes(), inputs: inputs + hidden + rope_bytes(&model) })
    }

    /// All of them.
    pub fn total(&self) -> usize {
        self.activations + self.inputs
    }
}

/// The layers below `first_layer`, and the hidden states that they give.
fn prefix(config: &Architecture, storage: StorageOf, first_layer: usize, max_tokens: usize) -> Result<(Model, ValueId)> {
    let model = Model::build(config, storage, &mut Bare, Purpose::Evaluate, Part::Below(first_layer), max_tokens)?;
    match model.head {
        Head::Hidden(output) => Ok((model, output)),
        _ => Err(ShapeError::new("model", "the head", "another", "hidden states").into()),
    }
}
