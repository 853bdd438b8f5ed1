//! What training occupies on the device, by class, planned from the configuration before anything is allocated; and how much is computed
//! again so that it stays within a budget.

use super::prefix_cache::PrefixMemory;
use super::step::{LossGraph, Recompute};
use crate::Result;
use crate::adapter::{AdapterLayout, LoraSpec};
use crate::gpu::padded;
use crate::graph::{Counts, Graph, Origin, ValueId};
use crate::model::config::ModelConfig;
use crate::model::llama::{Part, StorageOf};
use crate::plan::Plan;
use std::collections::HashSet;

/// Bytes on the device, by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Memory {
    pub weights: usize,
    pub adapters: usize,
    /// Gradients and both moments.
    pub optimizer: usize,
    /// Activations and scratch, after sharing by liveness.
    pub activations: usize,
    /// Token ids, positions, targets, kernel parameters.
    pub inputs: usize,
}

impl Memory {
    pub fn total(&self) -> usize {
        self.weights + self.adapters + self.optimizer + self.activations + self.inputs
    }
}

/// What decides, besides model and adapter, how much memory a step needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepShape {
    /// Tokens of the largest batch.
    pub max_tokens: usize,
    /// A step may have several batches.
    pub accumulate: bool,
    pub recompute: Recompute,
}

/// Plans of one run that differ in what is computed again.
#[derive(Clone, Debug)]
pub struct Planner {
    /// As built: nothing is computed again.
    graphs: LossGraph,
    shape: StepShape,
    /// Bytes of the frozen weights.
    weights: usize,
    /// Bytes of the adapter.
    adapter: usize,
    /// What the layers below the step occupy, where they stand apart.
    below: PrefixMemory,
}

impl Planner {
    /// Plans training from the configuration alone. `weights` are the bytes of the frozen weights; `first_layer` is the lowest layer that
    /// a step runs where a [`PrefixCache`](super::prefix_cache::PrefixCache) stands for those below.
    ///
    /// # Errors
    /// If the configuration contradicts itself.
    pub fn new(
        config: &ModelConfig,
        storage: StorageOf,
        lora: &LoraSpec,
        shape: StepShape,
        weights: usize,
        first_layer: Option<usize>,
    ) -> Result<Self> {
        let graphs = LossGraph::build_part(config, storage, lora, Part::above(first_layer), shape.max_tokens)?;
        let adapter = padded(AdapterLayout::new(lora, config).elements() * 4);
        let below = first_layer.map(|layer| PrefixMemory::plan(config, storage, layer, shape.max_tokens)).transpose()?;
        Ok(Self { graphs, shape, weights, adapter, below: below.unwrap_or_default() })
    }

    /// The step that is planned.
    pub fn shape(&self) -> StepShape {
        self.shape
    }

    /// The same with another choice of what is computed again.
    #[must_use]
    pub fn with(mut self, recompute: Recompute) -> Self {
        self.shape.recompute = recompute;
        self
    }

    /// Layers that have a backward pass, and so something that can be computed again.
    pub fn layers(&self) -> usize {
        self.graphs.layers().len()
    }

    /// What the run will occupy.
    pub fn memory(&self) -> Memory {
        self.memory_with(self.shape.recompute)
    }

    fn memory_with(&self, recompute: Recompute) -> Memory {
        let graphs = self.graphs.clone().recomputed(recompute);
        let graph = &graphs.model.graph;
        let leaves = graph.value_ids().filter(|id| matches!(graph[*id].origin, Origin::Weight | Origin::Adapter | Origin::State));
        let pinned: HashSet<ValueId> = leaves.chain(graphs.gradients.iter().copied()).chain(graphs.model.inputs.hidden).collect();
        let plan = Plan::new(graph, &[graphs.loss, graphs.nll], &pinned);
        Memory {
            weights: self.weights,
            adapters: self.adapter,
            optimizer: self.adapter * if self.shape.accumulate { 4 } else { 3 },
            activations: plan.arena_bytes() + self.below.activations,
            inputs: plan.input_bytes(graph) + self.below.inputs,
        }
    }

    /// Floating-point operations of a full batch that recompute adds, as a share of those without it.
    pub fn extra_flops(&self) -> f64 {
        let full = Counts { tokens: self.shape.max_tokens, supervised: self.shape.max_tokens };
        let flops = |graph: &Graph| graph.flops(&full) as f64;
        let recomputed = self.graphs.clone().recomputed(self.shape.recompute);
        flops(&recomputed.model.graph) / flops(&self.graphs.model.graph) - 1.0
    }

    /// The least recompute with which the run stays within `budget` bytes; `None` if even all of it is not enough.
    pub fn least_recompute(&self, budget: usize) -> Option<Recompute> {
        let fits = |recompute| self.memory_with(recompute).total() <= budget;
        if fits(Recompute::None) {
            return Some(Recompute::None);
        }
        // Each further layer saves memory, so the first count that fits is found by halving.
        let (mut least, mut most) = (0, self.layers());
        if !fits(Recompute::Layers(most)) {
            return None;
        }
        while least < most {
            let middle = least + (most - least) / 2;
            if fits(Recompute::Layers(middle)) {
                most = middle;
            } else {
                least = middle + 1;
            }
        }
        Some(Recompute::Layers(most))
    }
}
