//! What enters the linear layers of the base model, one layer of the model at a time: only that layer's activations are on the device.

use super::batch::write_batch;
use crate::Result;
use crate::adapter::{Adapted, DeviceAdapter};
use crate::architecture::Architecture;
use crate::data::Batch;
use crate::graph::{Graph, ShapeError, ValueId};
use crate::model::graph::{Head, Inputs, Model, Part, Purpose, StorageOf};
use crate::model::hook::{Hook, Linear};
use crate::model::weights::DeviceWeights;
use crate::plan::Executable;

/// What enters some linear layers of a layer of the model, which is the same for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entering {
    /// The linear layers, by their number.
    pub sites: Vec<usize>,
    /// `[tokens, in_features]`.
    value: ValueId,
}

/// Remembers what enters which linear layer, and adds nothing.
#[derive(Default)]
struct Listener(Vec<Entering>);

impl Hook for Listener {
    fn after(&mut self, _graph: &mut Graph, linear: Linear) -> std::result::Result<Vec<ValueId>, ShapeError> {
        let (site, value) = (linear.site.number, linear.x);
        match self.0.iter_mut().find(|known| known.value == value) {
            Some(known) => known.sites.push(site),
            None => self.0.push(Entering { sites: vec![site], value }),
        }
        Ok(linear.outputs)
    }
}

/// The linear layers of a layer, together where the same enters them.
///
/// # Errors
/// If the configuration contradicts itself.
pub fn entering(config: &Architecture, storage: StorageOf, layer: usize) -> Result<Vec<Entering>> {
    build(config, storage, layer, 1).map(|(_, heard)| heard)
}

fn build(config: &Architecture, storage: StorageOf, layer: usize, max_tokens: usize) -> Result<(Model, Vec<Entering>)> {
    let mut listener = Listener::default();
    let model = Model::build(config, storage, &mut listener, Purpose::Evaluate, Part::Layer(layer), max_tokens)?;
    Ok((model, listener.0))
}

/// A part of the base model that runs on a device: the embedding, or a layer.
pub struct Stage {
    inputs: Inputs,
    /// `[tokens, hidden_size]`.
    output: ValueId,
    executable: Executable,
    hidden_size: usize,
}

impl Stage {
    /// The embedding, with what the adapter has in its place, for batches of at most `max_tokens` tokens.
    ///
    /// # Errors
    /// If the device has not the memory.
    pub fn embedding(weights: &DeviceWeights, config: &Architecture, adapter: &DeviceAdapter, max_tokens: usize) -> Result<Self> {
        let storage = |name: &str| weights.dtype(name);
        let (placement, part) = (Some(&adapter.placement), Part::Below(0));
        let Adapted { model, leaves, .. } = Adapted::build(config, &storage, placement, Purpose::Evaluate, part, max_tokens)?;
        let mut pinned = weights.pinned(&model, config)?;
        pinned.extend(adapter.pinned(&model.graph, &leaves));
        let (inputs, output) = (model.inputs, output(&model)?);
        let executable = Executable::new(weights.place(), model.graph, &[output], pinned)?;
        Ok(Self { inputs, output, executable, hidden_size: config.hidden_size })
    }

    /// A layer, in which what enters one of the linear layers in `wanted`, by their numbers, can be read. Gives that, too.
    ///
    /// # Errors
    /// If the device has not the memory.
    pub fn layer(
        weights: &DeviceWeights,
        config: &Architecture,
        layer: usize,
        max_tokens: usize,
        wanted: &[usize],
    ) -> Result<(Self, Vec<Entering>)> {
        let (model, mut entering) = build(config, &|name| weights.dtype(name), layer, max_tokens)?;
        entering.retain(|entering| entering.sites.iter().any(|site| wanted.contains(site)));
        let pinned = weights.pinned(&model, config)?;
        let (inputs, output) = (model.inputs, output(&model)?);
        let keep: Vec<ValueId> = entering.iter().map(|entering| entering.value).chain([output]).collect();
        let executable = Executable::new(weights.place(), model.graph, &keep, pinned)?;
        Ok((Self { inputs, output, executable, hidden_size: config.hidden_size }, entering))
    }

    /// Runs a batch; a layer on the hidden states `[tokens, hidden_size]` that enter it. Gives those that leave it.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn run(&mut self, batch: &Batch, hidden: &[f32]) -> Result<Vec<f32>> {
        if let Some(input) = self.inputs.hidden {
            self.executable.write(input, hidden);
        }
        let counts = write_batch(&self.executable, &self.inputs, batch, 1.0);
        self.executable.run(&counts)?;
        self.executable.read(self.output, batch.rows() * self.hidden_size)
    }

    /// Some rows of what entered in the last run, that of this batch: `[rows, in_features]`.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn read(&self, entering: &Entering, batch: &Batch, rows: &[usize]) -> Result<Vec<f32>> {
        let columns = self.executable.graph()[entering.value].tensor.shape.columns;
        let all = self.executable.read(entering.value, batch.rows() * columns)?;
        Ok(rows.iter().flat_map(|row| &all[row * columns..(row + 1) * columns]).copied().collect())
    }
}

fn output(model: &Model) -> Result<ValueId> {
    match model.head {
        Head::Hidden(output) => Ok(output),
        _ => Err(ShapeError::new("model", "the head", "another", "hidden states").into()),
    }
}
