//! A model with its adapters as a graph: what a [`Placement`] hangs on its linear layers.

use super::placement::Placement;
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
        placement: Option<&Placement>,
        purpose: Purpose,
        part: Part,
        max_tokens: usize,
    ) -> Result<Self, ShapeError> {
        let Some(placement) = placement else {
            let model = Model::build(architecture, storage, &mut Bare, purpose, part, max_tokens)?;
            return Ok(Self { model, adapters: Vec::new(), dropout_counter: None });
        };
        let mut hook = Hooked { placement, adapters: Vec::new(), dropout_counter: None };
        let model = Model::build(architecture, storage, &mut hook, purpose, part, max_tokens)?;
        Ok(Self { model, adapters: hook.adapters, dropout_counter: hook.dropout_counter })
    }
}

struct Hooked<'a> {
    placement: &'a Placement,
    adapters: Vec<ValueId>,
    dropout_counter: Option<ValueId>,
}

impl Hook for Hooked<'_> {
    fn begin(&mut self, graph: &mut Graph, purpose: Purpose) {
        if purpose == Purpose::Train && self.placement.has_dropout() {
            let counter = graph.leaf("dropout_counter", TensorType::u32(Rows::Fixed(1), 2), Origin::Input);
            self.dropout_counter = Some(counter);
        }
    }

    fn after(&mut self, graph: &mut Graph, linear: Linear) -> Result<Vec<ValueId>, ShapeError> {
        let Some(piece) = self.placement.at(linear.site) else { return Ok(linear.outputs) };
        let mut leaves = Vec::new();
        for matrix in piece.method.matrices(&piece.site) {
            let whole = matrix.parts.len() == 1;
            let leaf = |(index, &rows): (usize, &usize)| {
                let part = if whole { String::new() } else { format!(".{index}") };
                let tensor = TensorType::f32(Rows::Fixed(rows), matrix.shape[1]);
                graph.leaf(format!("{}{part}", matrix.name), tensor, Origin::Adapter)
            };
            leaves.push(matrix.parts.iter().enumerate().map(leaf).collect::<Vec<_>>());
        }
        self.adapters.extend(leaves.iter().flatten());
        let counter = self.dropout_counter.filter(|_| piece.method.dropout() > 0.0);
        piece.method.forward(graph, linear, &leaves, counter)
    }
}
