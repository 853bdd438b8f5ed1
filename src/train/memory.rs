//! What training occupies on the device, by class, planned from the configuration before anything is allocated; and how much is computed
//! again so that it stays within a budget.

use super::step::{LossGraph, OptimizerGraph, Recompute, accumulator_graph};
use crate::Result;
use crate::adapter::{Adapted, AdapterLayout, Placement};
use crate::architecture::Architecture;
use crate::gpu::padded;
use crate::graph::{Counts, Graph, ShapeError, ValueId};
use crate::kernel::Facts;
use crate::model::graph::{Head, Model, Part, Purpose, StorageOf};
use crate::plan::{Plan, borrow};
use crate::session::memory::{planned, rope_bytes};
use crate::session::prefix_cache::{Lowest, PrefixMemory};

/// Bytes on the device, by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Memory {
    pub weights: usize,
    pub adapters: usize,
    /// Gradients and both moments.
    pub optimizer: usize,
    /// Activations and scratch, after sharing by liveness.
    pub activations: usize,
    /// Token ids, positions, targets, rope table, kernel parameters.
    pub inputs: usize,
    /// The same for the held-out data, and activations beyond those of a step, whose memory they share; and all that answering questions
    /// takes.
    pub evaluation: usize,
}

impl Memory {
    pub fn total(&self) -> usize {
        self.weights + self.adapters + self.optimizer + self.activations + self.inputs + self.evaluation
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
    /// Tokens of the largest batch of held-out data; 0 if there is none.
    pub held_out_tokens: usize,
}

/// Plans of one run that differ in what is computed again.
#[derive(Clone, Debug)]
pub struct Planner {
    /// As built: nothing is computed again.
    graphs: LossGraph,
    shape: StepShape,
    /// The graph that evaluates held-out data, and what can be read from it after a run.
    held_out: Option<(Model, [ValueId; 2])>,
    /// Bytes of the frozen weights.
    weights: usize,
    /// Elements of each buffer of the adapter, with its learning rate.
    buffers: Vec<(usize, f64)>,
    /// Bytes of the adapter's matrices that are not trained.
    frozen: usize,
    facts: Facts,
    /// What the layers below a step, and below an evaluation, occupy where they stand apart.
    below: [PrefixMemory; 2],
    /// What answering questions between the steps occupies.
    answering: usize,
}

impl Planner {
    /// Plans training from the configuration alone. `weights` are the bytes of the frozen weights; `facts` decide how many kernel calls
    /// there are, and so a little of the memory.
    ///
    /// # Errors
    /// If the configuration contradicts itself.
    pub fn new(
        config: &Architecture,
        storage: StorageOf,
        placement: &Placement,
        shape: StepShape,
        weights: usize,
        facts: &Facts,
        lowest: Lowest,
    ) -> Result<Self> {
        let graphs = LossGraph::build_part(config, storage, placement, Part::above(lowest.train), shape.max_tokens)?;
        let held_out = match shape.held_out_tokens {
            0 => None,
            tokens => {
                let part = Part::above(lowest.held_out);
                let model = Adapted::build(config, storage, Some(placement), Purpose::Evaluate, part, tokens)?.model;
                let Head::Loss { loss, nll } = model.head else {
                    return Err(ShapeError::new("model", "the head", "logits", "a loss").into());
                };
                Some((model, [loss, nll]))
            }
        };
        let buffers = AdapterLayout::new(placement).rated_spans();
        let frozen = AdapterLayout::frozen(placement).span_elements().iter().map(|elements| padded(elements * 4)).sum();
        let below = |layer: Option<usize>, tokens| match layer {
            Some(layer) => PrefixMemory::plan(config, storage, layer, tokens, facts),
            None => Ok(PrefixMemory::default()),
        };
        let below = [below(lowest.train, shape.max_tokens)?, below(lowest.held_out, shape.held_out_tokens)?];
        Ok(Self { graphs, shape, held_out, weights, buffers, frozen, facts: facts.clone(), below, answering: 0 })
    }

    /// The same with so many bytes more, for questions that are answered between the steps.
    #[must_use]
    pub fn answering(self, bytes: usize) -> Self {
        Self { answering: bytes, ..self }
    }

    /// The step that is planned.
    pub fn shape(&self) -> StepShape {
        self.shape
    }

    /// What the run computes: a step, and the evaluation of held-out data.
    pub fn graphs(&self) -> Vec<Graph> {
        let step = self.graphs.clone().recomputed(self.shape.recompute).model.graph;
        std::iter::once(step).chain(self.held_out.iter().map(|(model, _)| model.graph.clone())).collect()
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

    /// The largest single value of the activations: name and bytes. It has to fit a binding.
    pub fn largest(&self) -> Option<(String, usize)> {
        let graphs = self.graphs.clone().recomputed(self.shape.recompute);
        let (plan, _) = self.plan(&graphs.model.graph, &graphs.outputs(), &graphs.gradients);
        plan.largest(&graphs.model.graph).map(|(name, bytes)| (name.to_string(), bytes))
    }

    fn memory_with(&self, recompute: Recompute) -> Memory {
        let graphs = self.graphs.clone().recomputed(recompute);
        let pinned: Vec<ValueId> = graphs.gradients.iter().copied().chain(graphs.model.inputs.hidden).collect();
        let (step, inputs) = self.plan(&graphs.model.graph, &graphs.outputs(), &pinned);
        let adapter: usize = self.buffers.iter().map(|(elements, _)| padded(elements * 4)).sum();
        let mut memory = Memory {
            weights: self.weights,
            adapters: adapter + self.frozen,
            optimizer: 3 * adapter,
            activations: step.arena_bytes() + self.below[0].activations,
            inputs: inputs + rope_bytes(&graphs.model) + self.below[0].inputs,
            evaluation: self.answering,
        };
        // Neither graph can fail: an adapter that was laid out has elements.
        if let Ok(optimizer) = OptimizerGraph::build_rated(&self.buffers) {
            let (plan, inputs) = self.plan(&optimizer.graph, &[optimizer.norm], &[]);
            memory.optimizer += plan.arena_bytes() + inputs;
        }
        if let (true, Ok((graph, ..))) =
            (self.shape.accumulate, accumulator_graph(&self.buffers.iter().map(|(elements, _)| *elements).collect::<Vec<_>>()))
        {
            memory.optimizer += adapter + self.plan(&graph, &[], &[]).1;
        }
        if let Some((model, keep)) = &self.held_out {
            let (plan, inputs) = self.plan(&model.graph, keep, model.inputs.hidden.as_slice());
            let lenders = borrow(&plan.slots, &step.slots);
            let own = plan.slots.iter().zip(lenders).filter(|(_, lender)| lender.is_none()).map(|(bytes, _)| bytes);
            memory.evaluation += own.sum::<usize>() + inputs + rope_bytes(model) + self.below[1].total();
        }
        memory
    }

    /// The plan of a graph, and the bytes of its inputs and parameters.
    fn plan(&self, graph: &Graph, keep: &[ValueId], more_pinned: &[ValueId]) -> (Plan, usize) {
        planned(graph, keep, more_pinned, &self.facts)
    }

    /// Floating-point operations of a batch, without those that recompute adds.
    pub fn flops(&self, counts: &Counts) -> f64 {
        self.graphs.model.graph.flops(counts) as f64
    }

    /// Floating-point operations of a batch, with those that recompute adds.
    pub fn flops_with_recompute(&self, counts: &Counts) -> f64 {
        self.flops(counts) * (1.0 + self.extra_flops())
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
