//! Which part of the arena each value gets, from when it is made to when it is used last.
//!
//! All lifetimes are known before anything is allocated, so the largest values are placed first and smaller ones fill what these leave
//! free (Pisarchyk & Lee 2020, arXiv 2001.03288). Two values may lie in one slot at the same time, side by side, but WebGPU lets no
//! dispatch write to a buffer that it also reads, so values of which a node writes one and touches the other get different slots.

use super::{Place, Plan, Region};
use crate::gpu::padded;
use crate::graph::{Graph, Op, Origin, ValueId};
use std::collections::HashSet;

pub(super) fn assign(graph: &Graph, keep: &[ValueId], pinned: &HashSet<ValueId>) -> Plan {
    let nodes = needed_nodes(graph, keep, pinned);
    let mut places = vec![Place::Unused; graph.values().len()];
    let mut tenants: Vec<Tenant> = Vec::new();
    // By value: its tenant, if it lives in the arena itself or in the place of one that does.
    let mut tenant_of: Vec<Option<usize>> = vec![None; graph.values().len()];
    let mut scratch_of: Vec<(usize, usize)> = Vec::new();
    for &index in &nodes {
        let node = &graph.nodes()[index];
        for &input in &node.inputs {
            if places[input.0] == Place::Unused {
                assert!(!matches!(graph[input].origin, Origin::Node(..) | Origin::Fused), "`{}` is not made yet", node.name);
                places[input.0] = if pinned.contains(&input) { Place::Pinned } else { Place::Input };
            }
            if let Some(tenant) = tenant_of[input.0] {
                tenants[tenant].touch(index);
            }
        }
        for (position, &output) in node.outputs.iter().enumerate() {
            let shared = node.op.in_place().iter().find(|(out, _)| *out == position).map(|(_, input)| node.inputs[*input]);
            places[output.0] = match shared {
                Some(input) => Place::Same(input),
                None if pinned.contains(&output) => Place::Pinned,
                // Where in the arena is decided below.
                None => Place::Arena(Region::default()),
            };
            tenant_of[output.0] = match shared {
                Some(input) => tenant_of[input.0],
                None if pinned.contains(&output) => None,
                None => {
                    tenants.push(Tenant::new(padded(graph[output].tensor.max_bytes()), index));
                    Some(tenants.len() - 1)
                }
            };
            if let Some(tenant) = tenant_of[output.0] {
                tenants[tenant].written.push(index);
            }
        }
        let types: Vec<_> = node.inputs.iter().map(|id| graph[*id].tensor).collect();
        for tensor in Op::scratch(&*node.op, &types) {
            scratch_of.push((index, tenants.len()));
            tenants.push(Tenant { written: vec![index], ..Tenant::new(padded(tensor.max_bytes()), index) });
        }
    }
    for tenant in keep.iter().filter_map(|id| tenant_of[id.0]) {
        tenants[tenant].last = usize::MAX;
    }

    let (regions, slots) = place(&tenants);
    for (place, tenant) in places.iter_mut().zip(&tenant_of) {
        if let (Place::Arena(region), Some(tenant)) = (place, tenant) {
            *region = regions[*tenant];
        }
    }
    let mut scratch = vec![Vec::new(); graph.nodes().len()];
    scratch_of.into_iter().for_each(|(node, tenant)| scratch[node].push(regions[tenant]));
    Plan { places, nodes, scratch, slots }
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

/// Something that needs room in the arena: a value, or scratch of a node.
struct Tenant {
    bytes: usize,
    /// The node that makes it.
    first: usize,
    /// The last node that touches it; past all nodes if it can be read after the run.
    last: usize,
    /// Nodes that write it, ascending: the one that makes it and those that update it in place.
    written: Vec<usize>,
    /// Nodes that read or write it, ascending.
    touched: Vec<usize>,
}

impl Tenant {
    fn new(bytes: usize, made: usize) -> Self {
        Self { bytes, first: made, last: made, written: Vec::new(), touched: vec![made] }
    }

    fn touch(&mut self, node: usize) {
        self.last = node;
        if self.touched.last() != Some(&node) {
            self.touched.push(node);
        }
    }

    fn lives_with(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Does a node write one of the two and touch the other?
    fn excludes(&self, other: &Self) -> bool {
        let meets = |one: &Self, two: &Self| one.written.iter().any(|node| two.touched.binary_search(node).is_ok());
        meets(self, other) || meets(other, self)
    }
}

/// One buffer of the arena, and who lies where in it.
struct Slot {
    bytes: usize,
    /// First byte, and number of the tenant.
    tenants: Vec<(usize, usize)>,
}

/// A region for each tenant, and the bytes of each slot.
fn place(tenants: &[Tenant]) -> (Vec<Region>, Vec<usize>) {
    let mut order: Vec<usize> = (0..tenants.len()).collect();
    order.sort_by_key(|&tenant| (std::cmp::Reverse(tenants[tenant].bytes), tenants[tenant].first));
    let mut regions = vec![Region::default(); tenants.len()];
    let mut slots: Vec<Slot> = Vec::new();
    for tenant in order {
        let bytes = tenants[tenant].bytes;
        // Slots are ordered by size. One that nobody else uses meanwhile comes first, the smallest of them: values that lie side by side
        // make dispatches wait for each other that otherwise need not. It may be half empty, no more: smaller values go side by side.
        let alone = |slot: &Slot| slot.tenants.iter().all(|(_, other)| !tenants[tenant].lives_with(&tenants[*other]));
        let free = slots.iter().rposition(|slot| slot.bytes <= 2 * bytes && alone(slot)).map(|slot| (slot, 0));
        let gap = || (0..slots.len()).find_map(|slot| Some((slot, slots[slot].gap(tenants, tenant)?)));
        let (slot, offset) = free.or_else(gap).unwrap_or((slots.len(), 0));
        if slot == slots.len() {
            slots.push(Slot { bytes, tenants: Vec::new() });
        }
        slots[slot].tenants.push((offset, tenant));
        regions[tenant] = Region { slot, offset, bytes };
    }
    (regions, slots.into_iter().map(|slot| slot.bytes).collect())
}

impl Slot {
    /// First byte of a range that is free while `tenant` lives, if there is one beside tenants that it can share a buffer with.
    fn gap(&self, tenants: &[Tenant], tenant: usize) -> Option<usize> {
        let wanted = &tenants[tenant];
        let mut taken = Vec::new();
        for &(offset, other) in &self.tenants {
            if wanted.lives_with(&tenants[other]) {
                if wanted.excludes(&tenants[other]) {
                    return None;
                }
                taken.push((offset, offset + tenants[other].bytes));
            }
        }
        taken.sort_unstable();
        let mut start = 0;
        for (from, to) in taken {
            if start + wanted.bytes <= from {
                return Some(start);
            }
            start = start.max(to);
        }
        (start + wanted.bytes <= self.bytes).then_some(start)
    }
}
