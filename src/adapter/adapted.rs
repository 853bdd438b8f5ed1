//! A model with its adapters as a graph: what a [`Placement`] hangs on its linear layers.

use super::method::{AdapterMatrix, Leaves, Prepared};
use super::placement::Placement;
use crate::architecture::{Architecture, Site};
use crate::graph::{Graph, Origin, Rows, ShapeError, TensorType, ValueId};
use crate::model::graph::{Model, Part, Purpose, StorageOf};
use crate::model::hook::{Bare, Half, Hook, Linear, OwnRows, Vocabulary};
use std::collections::HashMap;

/// A model, adapted or not.
#[derive(Clone, Debug)]
pub struct Adapted {
    pub model: Model,
    pub leaves: AdapterLeaves,
    /// `[1, 2]` u32: counter of the dropout generator, where there is dropout.
    pub dropout_counter: Option<ValueId>,
}

/// A graph that fills the prepared leaves of another one.
pub struct Preparation {
    pub graph: Graph,
    /// Its leaves, and those of the other graph that have their numbers.
    pub leaves: Vec<(ValueId, ValueId)>,
    /// What it computes, in the order of [`AdapterLeaves::prepared`].
    pub outputs: Vec<ValueId>,
}

impl AdapterLeaves {
    /// What fills the prepared leaves of `graph`; `None` if it has none.
    ///
    /// # Errors
    /// None for leaves of that graph.
    pub fn preparation(&self, graph: &Graph) -> Result<Option<Preparation>, ShapeError> {
        let mut filling = Preparation { graph: Graph::new(), leaves: Vec::new(), outputs: Vec::new() };
        for Prepared { value, op, inputs } in &self.prepared {
            let mut own = Vec::new();
            for &of in inputs {
                let known = filling.leaves.iter().find(|(_, other)| *other == of).map(|(own, _)| *own);
                own.push(known.unwrap_or_else(|| {
                    let leaf = filling.graph.leaf(&graph[of].name, graph[of].tensor, graph[of].origin);
                    filling.leaves.push((leaf, of));
                    leaf
                }));
            }
            filling.outputs.extend(filling.graph.apply_shared(op.clone(), &own, &graph[*value].name)?);
        }
        Ok((!self.prepared.is_empty()).then_some(filling))
    }
}

/// Where a graph has the numbers of an adapter.
#[derive(Clone, Debug, Default)]
pub struct AdapterLeaves {
    /// Trained matrices, in the order of [`super::AdapterLayout::pinned`].
    pub trained: Vec<ValueId>,
    /// Those that are not, in the same order.
    pub frozen: Vec<ValueId>,
    /// The lists of tokens that have rows of their own.
    pub lists: Vec<ValueId>,
    /// Leaves with the numbers of others: themselves, and those others.
    pub copies: Vec<(ValueId, ValueId)>,
    /// Leaves that a graph of its own fills once a text, in generation.
    pub prepared: Vec<Prepared>,
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
            return Ok(Self { model, leaves: AdapterLeaves::default(), dropout_counter: None });
        };
        let prepares = matches!(purpose, Purpose::Generate { .. });
        let (leaves, dropout_counter) = (AdapterLeaves::default(), None);
        let mut hook = Hooked { placement, leaves, dropout_counter, prepares, whole: HashMap::new(), own: HashMap::new() };
        let model = Model::build(architecture, storage, &mut hook, purpose, part, max_tokens)?;
        let Hooked { mut leaves, dropout_counter, .. } = hook;
        // The graph meets them in another order than the layout has.
        for (of, matrices) in [(&mut leaves.trained, placement.matrices()), (&mut leaves.frozen, placement.frozen_matrices())] {
            let parts = matrices.iter().flat_map(|matrix| (0..matrix.parts.len()).map(|part| matrix.part_name(part)));
            let order: HashMap<String, usize> = parts.zip(0..).collect();
            of.sort_by_key(|&id| order.get(model.graph[id].name.as_str()).copied());
        }
        Ok(Self { model, leaves, dropout_counter })
    }
}

struct Hooked<'a> {
    placement: &'a Placement,
    leaves: AdapterLeaves,
    dropout_counter: Option<ValueId>,
    prepares: bool,
    /// Leaves of the matrices that stand in the place of the model's own, and of rows of their own; each may be used twice.
    whole: HashMap<Vocabulary, ValueId>,
    own: HashMap<Vocabulary, OwnRows>,
}

impl Hooked<'_> {
    /// The leaves of a piece's matrices, each in its parts.
    fn leaves_of(&mut self, graph: &mut Graph, matrices: &[AdapterMatrix]) -> Vec<Vec<ValueId>> {
        let mut leaves = Vec::new();
        for matrix in matrices {
            let leaf =
                |(index, &rows): (usize, &usize)| graph.leaf(matrix.part_name(index), matrix.leaf_type(rows), Origin::Adapter);
            leaves.push(matrix.parts.iter().enumerate().map(leaf).collect::<Vec<_>>());
            let kind = if matrix.trained { &mut self.leaves.trained } else { &mut self.leaves.frozen };
            kind.extend(leaves.last().into_iter().flatten());
        }
        leaves
    }

    /// Leaves of the same numbers by which nothing is differentiated.
    fn constants_of(&mut self, graph: &mut Graph, leaves: &[Vec<ValueId>]) -> Vec<Vec<ValueId>> {
        let mut copy = |&of: &ValueId| {
            let (name, tensor) = (format!("{}.constant", graph[of].name), graph[of].tensor);
            let copy = graph.leaf(name, tensor, Origin::State);
            self.leaves.copies.push((copy, of));
            copy
        };
        leaves.iter().map(|parts| parts.iter().map(&mut copy).collect()).collect()
    }
}

impl Hook for Hooked<'_> {
    fn begin(&mut self, graph: &mut Graph, purpose: Purpose) {
        if purpose == Purpose::Train && self.placement.has_dropout() {
            let counter = graph.leaf("dropout_counter", TensorType::u32(Rows::Fixed(1), 2), Origin::Input);
            self.dropout_counter = Some(counter);
        }
    }

    fn vocabulary(&mut self, graph: &mut Graph, module: Vocabulary) -> Option<ValueId> {
        let whole = self.placement.whole_of(module)?;
        let leaf = *self.whole.entry(whole.module).or_insert_with(|| {
            let (matrix, origin) = (whole.matrix(), if whole.trained { Origin::Adapter } else { Origin::State });
            let leaf = graph.leaf(&matrix.name, matrix.leaf_type(matrix.shape[0]), origin);
            if whole.trained { &mut self.leaves.trained } else { &mut self.leaves.frozen }.push(leaf);
            leaf
        });
        Some(leaf)
    }

    fn strength(&self) -> f64 {
        self.placement.strength.0
    }

    fn vector(&mut self, graph: &mut Graph, name: &str, part: usize) -> Option<ValueId> {
        let matrix = self.placement.vectors.iter().find(|vector| vector.name == name)?.matrix();
        let leaf = graph.leaf(matrix.part_name(part), matrix.leaf_type(matrix.parts[part]), Origin::Adapter);
        self.leaves.trained.push(leaf);
        Some(leaf)
    }

    fn router(&mut self, graph: &mut Graph, name: &str) -> Option<ValueId> {
        let matrix = self.placement.routers.iter().find(|router| router.name == name)?.matrix();
        let leaf = graph.leaf(&matrix.name, matrix.leaf_type(matrix.shape[0]), Origin::Adapter);
        self.leaves.trained.push(leaf);
        Some(leaf)
    }

    fn own_rows(&mut self, graph: &mut Graph, module: Vocabulary) -> Option<OwnRows> {
        let own = self.placement.rows_of(module)?;
        let leaves = self.own.entry(own.module).or_insert_with(|| {
            let (matrix, list) = (own.matrix(), TensorType::u32(Rows::Fixed(own.tokens.len()), 1));
            let rows = graph.leaf(&matrix.name, matrix.leaf_type(matrix.shape[0]), Origin::Adapter);
            let chosen = graph.leaf(own.list_name(), list, Origin::State);
            self.leaves.trained.push(rows);
            self.leaves.lists.push(chosen);
            OwnRows { rows, chosen, end: own.end() }
        });
        Some(*leaves)
    }

    fn stands_alone(&self, site: &Site) -> bool {
        self.placement.at(site).any(|piece| piece.method.stands_alone())
    }

    fn after(&mut self, graph: &mut Graph, mut linear: Linear) -> Result<Vec<ValueId>, ShapeError> {
        let placement = self.placement;
        for piece in placement.at(linear.site).filter(|piece| !piece.method.joins_half()) {
            let leaves = self.leaves_of(graph, &piece.matrices());
            let constants = if piece.method.has_constants() { self.constants_of(graph, &leaves) } else { Vec::new() };
            let prepared = self.prepares.then_some(&mut self.leaves.prepared);
            let mut leaves = Leaves { values: &leaves, constants: &constants, dropout_counter: self.dropout_counter, prepared };
            let weights = linear.weights.clone();
            let outputs = piece.method.forward(graph, Linear { weights, outputs: linear.outputs, ..linear }, &mut leaves)?;
            linear.outputs = outputs;
        }
        Ok(linear.outputs)
    }

    fn after_half(&mut self, graph: &mut Graph, mut half: Half) -> Result<ValueId, ShapeError> {
        let placement = self.placement;
        for piece in placement.at(half.site).filter(|piece| piece.method.joins_half()) {
            let values = self.leaves_of(graph, &piece.matrices());
            let mut leaves = Leaves { values: &values, constants: &[], dropout_counter: self.dropout_counter, prepared: None };
            half.output = piece.method.after_half(graph, half, &mut leaves)?;
        }
        Ok(half.output)
    }
}
