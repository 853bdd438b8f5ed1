//! A model with its adapters as a graph: low-rank terms hung on the linear layers that a [`LoraSpec`] chooses.

use super::lora::{LoraSpec, LoraValues};
use crate::architecture::Architecture;
use crate::graph::{Graph, Origin, Rows, ShapeError, TensorType, ValueId};
use crate::model::graph::{Model, Part, Purpose, StorageOf};
use crate::model::hook::{Bare, Hook, Linear};

/// A model, adapted or not.
#[derive(Clone, Debug)]
pub struct Adapted {
    pub model: Model,
    /// Adapter matrices in the order of [`super::AdapterLayout::pinned`].
    pub adapters: Vec<ValueId>,
    /// `[1, 2]` u32: counter of the dropout generator, where there is dropout.
    pub dropout_counter: Option<ValueId>,
}

impl Adapted {
    /// Builds the graph of a part of the model for at most `max_tokens` rows in a run.
    ///
    /// # Errors
    /// As [`Model::build`].
    pub fn build(
        architecture: &Architecture,
        storage: StorageOf,
        lora: Option<&LoraSpec>,
        purpose: Purpose,
        part: Part,
        max_tokens: usize,
    ) -> Result<Self, ShapeError> {
        let Some(spec) = lora else {
            let model = Model::build(architecture, storage, &mut Bare, purpose, part, max_tokens)?;
            return Ok(Self { model, adapters: Vec::new(), dropout_counter: None });
        };
        let mut hook = LoraHook { spec, adapters: Vec::new(), dropout_counter: None };
        let model = Model::build(architecture, storage, &mut hook, purpose, part, max_tokens)?;
        Ok(Self { model, adapters: hook.adapters, dropout_counter: hook.dropout_counter })
    }
}

struct LoraHook<'a> {
    spec: &'a LoraSpec,
    adapters: Vec<ValueId>,
    dropout_counter: Option<ValueId>,
}

impl Hook for LoraHook<'_> {
    fn begin(&mut self, graph: &mut Graph, purpose: Purpose) {
        if purpose == Purpose::Train && self.spec.dropout > 0.0 {
            let counter = graph.leaf("dropout_counter", TensorType::u32(Rows::Fixed(1), 2), Origin::Input);
            self.dropout_counter = Some(counter);
        }
    }

    fn after(&mut self, graph: &mut Graph, linear: Linear) -> Result<Vec<ValueId>, ShapeError> {
        if !self.spec.adapts(linear.site) {
            return Ok(linear.outputs);
        }
        let mut values = LoraValues::leaves(graph, self.spec, linear.site);
        self.adapters.push(values.a);
        self.adapters.extend(&values.b);
        values.scale *= linear.factor;
        values.dropout = self.dropout_counter.map(|counter| (self.spec.dropout, counter, linear.site.number as u32));
        values.onto(graph, linear.x, &linear.outputs, &linear.site.name())
    }
}
