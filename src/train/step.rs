//! The two graphs of a training step: loss with adapter gradients, and the optimizer.

use crate::adapter::{Adapted, AdapterLeaves, Placement};
use crate::architecture::Architecture;
use crate::autograd::{self, Root};
use crate::graph::{Graph, Origin, Rows, ShapeError, TensorType, ValueId};
use crate::model::graph::{Head, Model, Part, Purpose, StorageOf};
use crate::ops::accumulate::Accumulate;
use crate::ops::adamw::AdamW;
use crate::ops::global_norm::GlobalNorm;
use crate::plan::{Extent, Segment, fuse_adapters, recompute};
use std::collections::HashMap;
use std::ops::Range;

/// What of the forward pass is computed again for the backward pass instead of being kept. It changes no number of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Recompute {
    /// Nothing: as fast as it gets.
    #[default]
    None,
    /// So many layers as a whole, the lowest adapted one first: it waits longest for its backward pass, and while the upper ones have
    /// theirs, it needs no room. In the other adapted layers what costs next to nothing: norms, activation functions, dropout.
    Layers(usize),
}

/// Loss and adapter gradients of a batch of at most `max_tokens` tokens.
#[derive(Clone, Debug)]
pub struct LossGraph {
    pub model: Model,
    /// Adapter matrices, as [`Adapted::leaves`].
    pub leaves: AdapterLeaves,
    /// As [`Adapted::dropout_counter`].
    pub dropout_counter: Option<ValueId>,
    pub loss: ValueId,
    pub nll: ValueId,
    pub balance: Option<Balance>,
    /// Gradients of the trained leaves, in their order.
    pub gradients: Vec<ValueId>,
    /// The gradient of every value that has one.
    pub gradient_of: HashMap<ValueId, ValueId>,
    /// Nodes of the forward pass, which come first.
    forward: usize,
    /// Layers that have a backward pass: the lowest adapted one and all above.
    layers: Range<usize>,
}

/// What is added to the loss for how unevenly the routers spread the tokens.
#[derive(Clone, Copy, Debug)]
pub struct Balance {
    /// `[1, 1]`: [`Model::load_balancing_loss`].
    pub loss: ValueId,
    /// `[1, 1]` f32, written before each run: by what it is multiplied.
    pub weight: ValueId,
    /// What that is.
    pub coefficient: f64,
}

impl LossGraph {
    /// Builds forward and backward.
    ///
    /// # Errors
    /// A [`ShapeError`] if the configuration contradicts itself.
    pub fn build(
        config: &Architecture,
        storage: StorageOf,
        placement: &Placement,
        max_tokens: usize,
    ) -> Result<Self, ShapeError> {
        Self::build_part(config, storage, placement, Part::Whole, max_tokens)
    }

    /// [`LossGraph::build`] for a part of the model that has all adapters and the head.
    ///
    /// # Errors
    /// As [`LossGraph::build`].
    pub fn build_part(
        config: &Architecture,
        storage: StorageOf,
        placement: &Placement,
        part: Part,
        max_tokens: usize,
    ) -> Result<Self, ShapeError> {
        let adapted = Adapted::build(config, storage, Some(placement), Purpose::Train, part, max_tokens)?;
        let Adapted { mut model, leaves, dropout_counter } = adapted;
        let adapters = &leaves.trained;
        let Head::Loss { loss, nll } = model.head else {
            return Err(ShapeError::new("model", "the head", "logits", "a loss"));
        };
        let forward = model.graph.nodes().len();
        let balance = model.load_balancing_loss.zip(config.router_aux_loss_coef).map(|(loss, coefficient)| {
            let weight = model.graph.leaf("router_aux_loss_coef", TensorType::f32(Rows::Fixed(1), 1), Origin::Input);
            Balance { loss, weight, coefficient }
        });
        let roots = balance.map(|balance| Root::Seed(balance.loss, balance.weight)).into_iter().chain([Root::Loss(loss)]);
        let gradient_of = autograd::gradients(&mut model.graph, &roots.collect::<Vec<_>>(), adapters)?;
        let gradients = adapters
            .iter()
            .map(|adapter| {
                let name = &model.graph[*adapter].name;
                gradient_of.get(adapter).copied().ok_or_else(|| {
                    ShapeError::new("model", format!("the gradient of {name}"), "missing", "a path from it to the loss")
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let plain = std::mem::take(&mut model.graph);
        let kept = balance.map(|balance| balance.loss).into_iter().chain([loss, nll]);
        model.graph = fuse_adapters(&plain, &gradients.iter().copied().chain(kept).collect::<Vec<_>>());
        let place = |nodes: Range<usize>| moved(&plain, &model.graph, nodes);
        model.blocks = model.blocks.into_iter().map(place).collect();
        let forward = place(0..forward).end;
        let layers = placement.lowest_layer()..config.num_hidden_layers;
        Ok(Self { model, leaves, dropout_counter, loss, nll, balance, gradients, gradient_of, forward, layers })
    }

    /// What is read after a run.
    pub fn outputs(&self) -> Vec<ValueId> {
        [self.loss, self.nll].into_iter().chain(self.balance.map(|balance| balance.loss)).collect()
    }

    /// When each of the gradients is made, as a number that only their order gives a meaning.
    pub fn made(&self) -> Vec<usize> {
        let made = |id: &ValueId| if let Origin::Node(node, _) = self.model.graph[*id].origin { node.0 } else { 0 };
        self.gradients.iter().map(made).collect()
    }

    /// Layers that have a backward pass, and so something that can be computed again.
    pub fn layers(&self) -> Range<usize> {
        self.layers.clone()
    }

    /// How many nodes the forward pass has; they come first.
    pub fn forward_nodes(&self) -> usize {
        self.forward
    }

    /// The same step with this much computed again; `self` has to be as built.
    pub fn recomputed(mut self, what: Recompute) -> Self {
        let Recompute::Layers(count) = what else { return self };
        let whole = self.layers.start..self.layers.start.saturating_add(count);
        let extent = |layer| if whole.contains(&layer) { Extent::Whole } else { Extent::Cheap };
        let segment = |layer: usize| Segment { nodes: self.model.blocks[layer].clone(), extent: extent(layer) };
        let segments: Vec<Segment> = self.layers.clone().map(segment).collect();
        self.model.graph = recompute(&self.model.graph, self.forward, &segments);
        self
    }
}

/// Where these nodes of a graph stand after a transform that keeps their order.
fn moved(before: &Graph, after: &Graph, nodes: Range<usize>) -> Range<usize> {
    let made = before.nodes()[nodes].iter().flat_map(|node| &node.outputs);
    let places = made.filter_map(|id| if let Origin::Node(node, _) = after[*id].origin { Some(node.0) } else { None });
    let (first, last) = places.fold((usize::MAX, 0), |(first, last), node| (first.min(node), last.max(node)));
    first.min(last)..last + 1
}

/// The optimizer: global norm, clipping and AdamW over the whole adapter, which lies in one or more buffers.
#[derive(Clone, Debug)]
pub struct OptimizerGraph {
    pub graph: Graph,
    /// One a buffer.
    pub states: Vec<OptimizerState>,
    /// `[1, 8]`, see [`crate::ops::adamw::Hyper`]: one for each learning rate, which is the run's times this.
    pub hypers: Vec<(f64, ValueId)>,
    /// `[1, 1]`, before clipping.
    pub norm: ValueId,
}

/// What AdamW reads and changes of one buffer, each `[1, elements]`.
#[derive(Clone, Copy, Debug)]
pub struct OptimizerState {
    pub parameters: ValueId,
    pub gradients: ValueId,
    pub first_moment: ValueId,
    pub second_moment: ValueId,
}

impl OptimizerGraph {
    /// Builds the update of so many parameters in each buffer.
    ///
    /// # Errors
    /// None for positive numbers of elements.
    pub fn build(elements: &[usize]) -> Result<Self, ShapeError> {
        Self::build_rated(&elements.iter().map(|&elements| (elements, 1.0)).collect::<Vec<_>>())
    }

    /// [`OptimizerGraph::build`] where buffers have learning rates of their own, as multiples of the run's.
    ///
    /// # Errors
    /// None for positive numbers of elements.
    pub fn build_rated(buffers: &[(usize, f64)]) -> Result<Self, ShapeError> {
        let mut graph = Graph::new();
        let mut states = Vec::with_capacity(buffers.len());
        for &(elements, _) in buffers {
            let mut leaf = |name: &str| graph.leaf(name, TensorType::f32(Rows::Fixed(1), elements), Origin::State);
            states.push(OptimizerState {
                parameters: leaf("parameters"),
                gradients: leaf("gradients"),
                first_moment: leaf("first_moment"),
                second_moment: leaf("second_moment"),
            });
        }
        let mut hypers: Vec<(f64, ValueId)> = Vec::new();
        for &(_, rate) in buffers {
            if hypers.iter().all(|(known, _)| *known != rate) {
                let name = if hypers.is_empty() { "hyper".to_owned() } else { format!("hyper.{}", hypers.len()) };
                hypers.push((rate, graph.leaf(name, TensorType::f32(Rows::Fixed(1), 8), Origin::Input)));
            }
        }
        let gradients: Vec<ValueId> = states.iter().map(|state| state.gradients).collect();
        let norm = graph.apply_one(GlobalNorm, &gradients, "gradient_norm")?;
        for (OptimizerState { parameters, gradients, first_moment, second_moment }, (_, rate)) in states.iter().zip(buffers) {
            for (_, hyper) in hypers.iter().filter(|(known, _)| known == rate) {
                graph.apply(AdamW, &[*parameters, *gradients, *first_moment, *second_moment, norm, *hyper], "adamw")?;
            }
        }
        Ok(Self { graph, states, hypers, norm })
    }
}

/// The graph that adds the gradients of a batch to those of the step so far: itself, and the sum and the batch's gradients of each
/// buffer.
///
/// # Errors
/// None for positive numbers of elements.
pub(super) fn accumulator_graph(elements: &[usize]) -> Result<(Graph, Vec<[ValueId; 2]>), ShapeError> {
    let mut graph = Graph::new();
    let mut values = Vec::with_capacity(elements.len());
    for &elements in elements {
        let tensor = TensorType::f32(Rows::Fixed(1), elements);
        let sum = graph.leaf("summed_gradients", tensor, Origin::State);
        let one = graph.leaf("gradients", tensor, Origin::State);
        graph.apply(Accumulate, &[sum, one], "accumulate")?;
        values.push([sum, one]);
    }
    Ok((graph, values))
}
