//! Which slot of the arena each value gets, from when it is made to when it is used last.

use super::{Place, Plan};
use crate::gpu::padded;
use crate::graph::{Graph, Origin, ValueId};
use crate::ops::Op;
use std::collections::HashSet;

pub(super) fn assign(graph: &Graph, keep: &[ValueId], pinned: &HashSet<ValueId>) -> Plan {
    let nodes = needed_nodes(graph, keep, pinned);
    let last_use = last_uses(graph, &nodes, keep);
    let mut places = vec![Place::Unused; graph.values().len()];
    let mut pool = Pool::default();
    let mut scratch = vec![Vec::new(); graph.nodes().len()];
    for &index in &nodes {
        let node = &graph.nodes()[index];
        for &input in &node.inputs {
            if places[input.0] == Place::Unused {
                assert!(!matches!(graph[input].origin, Origin::Node(..) | Origin::Fused), "`{}` is not made yet", node.name);
                places[input.0] = if pinned.contains(&input) { Place::Pinned } else { Place::Input };
            }
        }
        // Inputs are still held here, so no output or scratch gets the slot of an input.
        for (position, &output) in node.outputs.iter().enumerate() {
            let shared = node.op.in_place().iter().find(|(out, _)| *out == position).map(|(_, input)| node.inputs[*input]);
            places[output.0] = match shared {
                Some(input) => Place::Same(input),
                None if pinned.contains(&output) => Place::Pinned,
                None => Place::Slot(pool.take(padded(graph[output].tensor.max_bytes()))),
            };
        }
        let types: Vec<_> = node.inputs.iter().map(|id| graph[*id].tensor).collect();
        scratch[index] = Op::scratch(&*node.op, &types).iter().map(|tensor| pool.take(padded(tensor.max_bytes()))).collect();
        scratch[index].iter().for_each(|&slot| pool.release(slot));
        for &id in node.inputs.iter().chain(&node.outputs).collect::<HashSet<_>>() {
            if last_use[id.0] <= index
                && let Place::Slot(slot) = places[id.0]
            {
                pool.release(slot);
            }
        }
    }
    Plan { places, nodes, scratch, slots: pool.sizes }
}

/// Nodes on whose outputs a kept or pinned value depends, and nodes that update something in place.
fn needed_nodes(graph: &Graph, keep: &[ValueId], pinned: &HashSet<ValueId>) -> Vec<usize> {
    let mut needed: HashSet<ValueId> = keep.iter().chain(pinned).copied().collect();
    let mut nodes = Vec::new();
    for (index, node) in graph.nodes().iter().enumerate().rev() {
        if node.outputs.iter().any(|id| needed.contains(id)) || !node.op.in_place().is_empty() {
            needed.extend(&node.inputs);
            nodes.push(index);
        }
    }
    nodes.reverse();
    nodes
}

/// Index of the last node that uses each value, or of the node that makes it if none does; past all nodes for kept values.
fn last_uses(graph: &Graph, nodes: &[usize], keep: &[ValueId]) -> Vec<usize> {
    let mut last = vec![0; graph.values().len()];
    for &index in nodes {
        let node = &graph.nodes()[index];
        node.inputs.iter().chain(&node.outputs).for_each(|id| last[id.0] = index);
    }
    keep.iter().for_each(|id| last[id.0] = usize::MAX);
    last
}

/// The slots, and which of them are free.
#[derive(Default)]
struct Pool {
    sizes: Vec<usize>,
    free: Vec<usize>,
}

impl Pool {
    /// The smallest free slot that is large enough, unless it would waste more than half of itself; otherwise a new one.
    fn take(&mut self, bytes: usize) -> usize {
        let fits = |slot: usize| self.sizes[slot] >= bytes && self.sizes[slot] <= bytes.saturating_mul(2);
        let best =
            (0..self.free.len()).filter(|&at| fits(self.free[at])).min_by_key(|&at| (self.sizes[self.free[at]], self.free[at]));
        if let Some(at) = best {
            return self.free.swap_remove(at);
        }
        self.sizes.push(bytes);
        self.sizes.len() - 1
    }

    fn release(&mut self, slot: usize) {
        debug_assert!(!self.free.contains(&slot), "slot {slot} released twice");
        self.free.push(slot);
    }
}
