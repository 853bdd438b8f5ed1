//! The *how* of a computation: which buffer each value of a graph occupies and when, before any of them is allocated.
//!
//! A [`Plan`] is made from the graph alone, so it can say what a run will cost in memory without a GPU. [`Executable`] puts it on a device
//! and replays it.
//!
//! Values share an arena by liveness: a value's memory is free for others after its last use. WebGPU forbids that one dispatch reads and
//! writes the same *buffer*, even in different ranges, so the arena is a pool of buffers, the slots, and not one buffer: a node's outputs
//! and scratch never share a slot with its inputs or with each other.

pub mod autotune;
mod executable;
mod fuse;
mod launches;
mod liveness;
mod pacing;
mod profile;
mod recompute;
pub mod timings;

pub use executable::{Executable, Pinned, Tuned};
pub use fuse::fuse_adapters;
pub use launches::compile;
pub use pacing::Pacer;
pub use recompute::{Extent, Segment, recompute};
pub use timings::Timing;

use crate::gpu::{ALIGNMENT, padded};
use crate::graph::{Graph, Origin, ValueId};
use crate::kernel::{Facts, Tuning};
use std::collections::HashSet;

/// A part of the arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Region {
    pub slot: usize,
    /// First byte in the slot.
    pub offset: usize,
    pub bytes: usize,
}

/// Where a value lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Part of the arena.
    Arena(Region),
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
    /// Each node's scratch.
    pub scratch: Vec<Vec<Region>>,
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

    /// Bytes of the parameters of all dispatches, on a device of this kind by its fixed rules.
    pub fn parameter_bytes(&self, graph: &Graph, facts: &Facts) -> usize {
        let dispatches = launches::largest(graph, self, &|_| vec![0], facts, &Tuning::NONE);
        padded(dispatches.iter().map(|(_, list)| list.len()).sum::<usize>() * ALIGNMENT)
    }

    /// The largest single piece of the arena, a value or a node's scratch: its name and bytes. It has to fit a binding.
    pub fn largest(&self, graph: &Graph) -> Option<(String, usize)> {
        let values = self.places.iter().zip(graph.values()).filter_map(|(place, value)| match place {
            Place::Arena(region) => Some((value.name.clone(), region.bytes)),
            _ => None,
        });
        let scratch = self
            .scratch
            .iter()
            .zip(graph.nodes())
            .flat_map(|(regions, node)| regions.iter().map(|region| (format!("{} (temporary)", node.name), region.bytes)));
        values.chain(scratch).max_by_key(|(_, bytes)| *bytes)
    }

    /// The leaves that the host writes before each run.
    pub fn inputs(&self, graph: &Graph) -> Vec<ValueId> {
        graph.value_ids().filter(|id| graph[*id].origin == Origin::Input && self.places[id.0] == Place::Input).collect()
    }
}

/// Which of the `lent` slots each slot of a second plan can lie in, where it fits into one; each is lent once. Largest first, so that
/// a small slot does not take the place of a large one.
pub fn borrow(slots: &[usize], lent: &[usize]) -> Vec<Option<usize>> {
    let descending = |sizes: &[usize]| {
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|&slot| std::cmp::Reverse(sizes[slot]));
        order
    };
    let mut free = descending(lent);
    let mut lenders = vec![None; slots.len()];
    for slot in descending(slots) {
        // The smallest that is large enough.
        if let Some(at) = free.iter().rposition(|&lender| lent[lender] >= slots[slot]) {
            lenders[slot] = Some(free.remove(at));
        }
    }
    lenders
}
