//! Probes: any values of a model's graph, kept and read back.
//!
//! A probe is an ordinary graph of the model, as training builds it (the adapter's products fused, the keys those of the batch), of which
//! other values are kept than the loss. What no kept value depends on is not computed and takes no memory, so a look into layer 3 runs
//! three layers, and a probe costs what it shows. Weights and adapter are those of the session; nothing is sent but token ids.

use super::batch::write_batch;
use super::{Session, Use};
use crate::adapter::{Adapted, DeviceAdapter, Placement};
use crate::architecture::Architecture;
use crate::data::Batch;
use crate::graph::{Counts, Graph, ShapeError, ValueId};
use crate::model::graph::{Head, Inputs, Model, Part, Purpose, StorageOf};
use crate::ops::attention::Attention;
use crate::ops::glu::Glu;
use crate::plan::{Executable, Pinned, compile, fuse_adapters};
use crate::{Error, Result};
use std::any::Any;
use std::collections::HashMap;

/// Tokens that are looked at together at the most.
pub const MOST_TOKENS: usize = 256;

/// Hidden states that go through the output layer together: their logits are a row of the vocabulary each.
pub const HEAD_ROWS: usize = 64;

/// What a session is opened for: looks at texts of at most so many tokens.
#[derive(Clone, Copy, Debug)]
pub struct Probing {
    pub tokens: usize,
}

impl Use for Probing {
    fn models(&self, config: &Architecture, storage: StorageOf, placement: Option<&Placement>) -> Result<Vec<Model>> {
        let depth = config.num_hidden_layers;
        let below = Adapted::build(config, storage, placement, Purpose::Probe, Part::Below(depth), self.tokens)?;
        let head = Adapted::build(config, storage, placement, Purpose::Probe, Part::From(depth), HEAD_ROWS)?;
        Ok(vec![below.model, head.model])
    }

    fn smaller(&self) -> &'static str {
        "a shorter text to look at"
    }
}

/// Where the numbers of a layer stand in a model's graph.
#[derive(Clone, Copy, Debug)]
pub struct LayerValues {
    /// `[tokens, heads * head_dim]`, rotated: as attention reads it.
    pub query: ValueId,
    /// `[tokens, key_value_heads * head_dim]`, rotated.
    pub key: ValueId,
    /// `[tokens, heads]`: the log-sum-exp of the scores, as attention's kernel gives it.
    pub lse: ValueId,
    /// `[tokens, intermediate_size]`, before the activation.
    pub gate: ValueId,
    /// `[tokens, intermediate_size]`.
    pub up: ValueId,
    /// `[tokens, intermediate_size]`: what goes into the down projection.
    pub inner: ValueId,
    /// `[tokens, hidden_size]`: the residual stream after the layer.
    pub output: ValueId,
    /// What attention computes.
    pub attention: Attention,
    /// What the MLP's gate goes through.
    pub glu: Glu,
}

impl LayerValues {
    /// Finds them by the ops of the layer's block, whatever the family.
    ///
    /// # Errors
    /// If the graph's [`Part`] does not have the layer.
    pub fn of(model: &Model, layer: usize) -> Result<Self> {
        let missing = || {
            let found = format!("{} blocks", model.blocks.len());
            ShapeError::new("model", format!("layer {layer}"), found, "a block with attention and MLP")
        };
        let nodes = &model.graph.nodes()[model.blocks.get(layer).cloned().ok_or_else(missing)?];
        fn op<T: Copy + 'static>(op: &dyn crate::graph::Op) -> Option<T> {
            (op as &dyn Any).downcast_ref().copied()
        }
        let attended = nodes.iter().find_map(|node| Some((node, op::<Attention>(&*node.op)?)));
        let gated = nodes.iter().find_map(|node| Some((node, op::<Glu>(&*node.op)?)));
        let (Some((attended, attention)), Some((gated, glu)), Some(last)) = (attended, gated, nodes.last()) else {
            return Err(missing().into());
        };
        Ok(Self {
            query: attended.inputs[0],
            key: attended.inputs[1],
            lse: attended.outputs[1],
            gate: gated.inputs[0],
            up: gated.inputs[1],
            inner: gated.outputs[0],
            output: last.outputs[0],
            attention,
            glu,
        })
    }
}

/// What enters the lowest layer: `[tokens, hidden_size]`.
pub fn embedding_value(model: &Model) -> ValueId {
    // The embedding, and its multiplier where the model has one, come before the first block.
    let first = model.blocks.iter().find(|block| !block.is_empty()).map_or(model.graph.nodes().len(), |block| block.start);
    model.graph.nodes()[first.max(1) - 1].outputs[0]
}

/// Which model is looked into.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The session's adapter, or that adapter [scaled](DeviceAdapter::scaled); `None` for the base model.
    pub adapter: Option<&'a DeviceAdapter>,
    /// Another rotation than the model's own.
    pub rotation: Option<&'a Architecture>,
    /// Where the first token stands, for the rotation.
    pub first_position: usize,
    pub part: Part,
    /// Tokens of the longest text.
    pub tokens: usize,
}

impl<'a> Subject<'a> {
    /// The whole model with this adapter.
    pub fn whole(adapter: Option<&'a DeviceAdapter>, tokens: usize) -> Self {
        Self { adapter, rotation: None, first_position: 0, part: Part::Whole, tokens }
    }

    /// Its graph with the adapter fused into it, what is to be read, and what `choose` gives.
    fn fused<T>(
        &self,
        config: &Architecture,
        storage: StorageOf,
        choose: impl FnOnce(&Model) -> Result<(Vec<ValueId>, T)>,
    ) -> Result<(Adapted, Vec<ValueId>, T)> {
        let placement = self.adapter.map(|adapter| &adapter.placement);
        let mut adapted = Adapted::build(config, storage, placement, Purpose::Probe, self.part, self.tokens)?;
        let (keep, found) = choose(&adapted.model)?;
        adapted.model.graph = fuse_adapters(&adapted.model.graph, &keep);
        Ok((adapted, keep, found))
    }
}

/// A graph on the session's device of which some values can be read after a run.
pub struct Probe {
    inputs: Inputs,
    executable: Executable,
    counts: Counts,
}

impl Probe {
    /// Prepares the forward pass. `choose` says which values are to be read, and gives what it needs to find them again.
    ///
    /// # Errors
    /// If the device has not the memory; what `choose` gives.
    pub fn forward<T>(
        session: &Session,
        subject: Subject,
        choose: impl FnOnce(&Model) -> Result<(Vec<ValueId>, T)>,
    ) -> Result<(Self, T)> {
        Self::forward_with(session, subject, &HashMap::new(), choose)
    }

    /// [`Probe::forward`] with other numbers, in f32, in the place of some weights, by their names.
    ///
    /// # Errors
    /// As [`Probe::forward`].
    pub fn forward_with<T>(
        session: &Session,
        subject: Subject,
        replaced: &HashMap<String, Pinned>,
        choose: impl FnOnce(&Model) -> Result<(Vec<ValueId>, T)>,
    ) -> Result<(Self, T)> {
        let (model, keep, pinned, found) = Self::prepared(session, &subject, replaced, choose)?;
        Ok((Self::new(session, model.graph, model.inputs, &keep, pinned)?, found))
    }

    /// Has the driver compile what [`Probe::forward`] would run, before anybody asks for it.
    ///
    /// # Errors
    /// As [`Probe::forward`].
    pub fn compile<T>(
        session: &Session,
        subject: Subject,
        choose: impl FnOnce(&Model) -> Result<(Vec<ValueId>, T)>,
    ) -> Result<()> {
        let (model, keep, pinned, _) = Self::prepared(session, &subject, &HashMap::new(), choose)?;
        compile(&session.weights().place(), &model.graph, &keep, &pinned)
    }

    /// The model with the adapter fused into it, what is to be read, where its leaves are, and what `choose` gives.
    fn prepared<T>(
        session: &Session,
        subject: &Subject,
        replaced: &HashMap<String, Pinned>,
        choose: impl FnOnce(&Model) -> Result<(Vec<ValueId>, T)>,
    ) -> Result<(Model, Vec<ValueId>, HashMap<ValueId, Pinned>, T)> {
        let weights = session.weights();
        let config = subject.rotation.unwrap_or(session.config());
        let is_replaced = |name: &str| replaced.keys().any(|other| other == name || other.starts_with(&format!("{name}[")));
        let storage = |name: &str| if is_replaced(name) { crate::storage::DType::F32 } else { weights.dtype(name) };
        let (Adapted { mut model, leaves, .. }, keep, found) = subject.fused(config, &storage, choose)?;
        model.inputs.rope_row = model.inputs.rope_row.map(|rope| rope.beginning_at(subject.first_position));
        let mut pinned = weights.pinned_from(&model, config, subject.first_position)?;
        for (name, value) in &model.weights {
            if let Some(place) = replaced.get(name) {
                pinned.insert(*value, place.clone());
            }
        }
        if let Some(adapter) = subject.adapter {
            pinned.extend(adapter.pinned(&model.graph, &leaves));
        }
        Ok((model, keep, pinned, found))
    }

    /// Puts the same subject with its adapter at another strength in the place of the one that was prepared. Gives whether it was: where that
    /// is another computation, it has to be prepared anew.
    ///
    /// # Errors
    /// What `choose` gives, which must be the one of before.
    pub fn rescale<T>(
        &mut self,
        session: &Session,
        subject: Subject,
        choose: impl FnOnce(&Model) -> Result<(Vec<ValueId>, T)>,
    ) -> Result<bool> {
        let storage = |name: &str| session.weights().dtype(name);
        let (adapted, ..) = subject.fused(subject.rotation.unwrap_or(session.config()), &storage, choose)?;
        Ok(self.executable.renumber(adapted.model.graph))
    }

    /// Prepares any graph of the session's model.
    ///
    /// # Errors
    /// If the device has not the memory.
    pub fn new(
        session: &Session,
        graph: Graph,
        inputs: Inputs,
        keep: &[ValueId],
        pinned: HashMap<ValueId, Pinned>,
    ) -> Result<Self> {
        let executable = Executable::new(session.weights().place(), graph, keep, pinned)?;
        Ok(Self { inputs, executable, counts: Counts::default() })
    }

    /// Runs a text; `wanted` are the rows whose logits are wanted, ascending.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn run(&mut self, ids: &[u32], wanted: &[u32]) -> Result<()> {
        let batch = Batch {
            input_ids: ids.to_vec(),
            position: (0..ids.len() as u32).collect(),
            segment_start: vec![0; ids.len()],
            supervised_rows: wanted.to_vec(),
            ..Batch::default()
        };
        self.run_batch(&batch, 1.0)
    }

    /// Runs a batch, where each token's loss counts `loss_weight`.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn run_batch(&mut self, batch: &Batch, loss_weight: f64) -> Result<()> {
        self.counts = write_batch(&self.executable, &self.inputs, batch, loss_weight);
        self.executable.run(&self.counts)
    }

    /// Runs hidden states `[rows, hidden_size]` that enter the lowest layer of a [`Part::From`] or [`Part::Layer`] as they are: what a text's rows were there.
    ///
    /// # Errors
    /// If the device is lost, or the part begins with the embedding.
    pub fn run_hidden(&mut self, hidden: &[f32], rows: usize, wanted: &[u32]) -> Result<()> {
        let input = self.inputs.hidden.ok_or_else(|| {
            Error::failed("probe", "this part begins with the embedding", "this is a mistake of graftling: please report it")
        })?;
        self.executable.write(input, hidden);
        self.run(&vec![0; rows], wanted)
    }

    /// Reads a chosen value: all rows of the last run.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn read(&self, value: ValueId) -> Result<Vec<f32>> {
        let [rows, columns] = self.executable.graph()[value].tensor.shape.resolve(&self.counts);
        self.executable.read(value, rows * columns)
    }

    /// The graph that runs.
    pub fn graph(&self) -> &Graph {
        self.executable.graph()
    }

    /// Bytes on the device beside weights and adapter.
    pub fn bytes(&self) -> usize {
        self.executable.own_bytes()
    }

    /// Nodes that run: those on which a chosen value depends.
    pub fn nodes(&self) -> usize {
        self.executable.plan().nodes.len()
    }
}

/// The logits of a graph that ends in them.
///
/// # Errors
/// If it ends otherwise.
pub fn logits_value(model: &Model) -> Result<ValueId> {
    match model.head {
        Head::Logits(logits) => Ok(logits),
        Head::Loss { .. } => Err(ShapeError::new("model", "the head", "a loss", "logits").into()),
        Head::Hidden(_) => Err(ShapeError::new("model", "the head", "hidden states", "logits").into()),
    }
}
