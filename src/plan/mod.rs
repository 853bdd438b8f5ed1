//! The *how* of a computation: which buffer each value of a graph occupies and when, before any of them is allocated.
//!
//! A [`Plan`] is made from the graph alone, so it can say what a run will cost in memory without a GPU. [`Executable`] puts it on a device
//! and replays it.
//!
//! Values share an arena by liveness: a value's memory is free for others after its last use. WebGPU forbids that one dispatch reads and
//! writes the same *buffer*, even in different ranges, so the arena is a pool of buffers, the slots, and not one buffer: a node's outputs
//! then never share a slot with its inputs.

mod executable;
mod fuse;
mod liveness;
mod pacing;
mod profile;
pub mod timings;

pub use executable::{Executable, Pinned};
pub use fuse::fuse_adapters;
pub use pacing::Pacer;
pub use timings::Timing;

use crate::gpu::padded;
use crate::graph::{Graph, Origin, ValueId};
use std::collections::HashSet;

/// Where a value lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Slot of the arena.
    Slot(usize),
    /// A buffer that the caller provides: weights, adapters, states, gradients.
    Pinned,
    /// The same memory as another value, updated in place.
    Same(ValueId),
    /// Written by the host before each run.
    Input,
    /// Never made: nothing that is kept depends on it.
    Unused,
}

/// Assignment of a graph's values to memory.
#[derive(Clone, Debug)]
pub struct Plan {
    /// By value.
    pub places: Vec<Place>,
    /// Nodes that run, in order: those on which a kept or pinned value depends.
    pub nodes: Vec<usize>,
    /// Slots of each node's scratch.
    pub scratch: Vec<Vec<usize>>,
    /// Bytes of each slot.
    pub slots: Vec<usize>,
}

impl Plan {
    /// Plans a graph.
    ///
    /// `keep` are values that can be read after a run (losses, probes). `pinned` are values that live in buffers of the caller:
    /// every weight, adapter and state that is used, and gradients that are wanted in a certain place.
    pub fn new(graph: &Graph, keep: &[ValueId], pinned: &HashSet<ValueId>) -> Self {
        liveness::assign(graph, keep, pinned)
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> usize {
        self.slots.iter().sum()
    }

    /// Bytes that the host writes before each run.
    pub fn input_bytes(&self, graph: &Graph) -> usize {
        self.places
            .iter()
            .zip(graph.values())
            .filter(|(place, _)| **place == Place::Input)
            .map(|(_, value)| padded(value.tensor.max_bytes()))
            .sum()
    }

    /// The largest single value in the arena: name and bytes. It has to fit a binding.
    pub fn largest<'g>(&self, graph: &'g Graph) -> Option<(&'g str, usize)> {
        self.places
            .iter()
            .zip(graph.values())
            .filter(|(place, _)| matches!(place, Place::Slot(_)))
            .map(|(_, value)| (value.name.as_str(), value.tensor.max_bytes()))
            .max_by_key(|(_, bytes)| *bytes)
    }

    /// The leaves that the host writes before each run.
    pub fn inputs(&self, graph: &Graph) -> Vec<ValueId> {
        graph.value_ids().filter(|id| graph[*id].origin == Origin::Input && self.places[id.0] == Place::Input).collect()
    }
}
