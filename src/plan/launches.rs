//! What the nodes of a graph dispatch, and the kernels of it all, which can be compiled before there is memory to run them on.

use super::{Pinned, Place, Plan, Tuned};
use crate::Result;
use crate::gpu::{ALIGNMENT, Wanted, compile_all};
use crate::graph::{Call, Counts, Dispatch, Graph, Operand, ValueId};
use crate::kernel::{Facts, Tuning};
use std::collections::{HashMap, HashSet};

/// Row counts that stand for the maximum of every value.
pub(super) const MOST: Counts = Counts { tokens: usize::MAX, supervised: usize::MAX };

/// Has the driver compile all that [`Executable::new`](super::Executable::new) would run for this graph, and allocates nothing. A leaf that is
/// not in `pinned` is taken to lie in one piece.
///
/// # Errors
/// If a kernel does not compile, or the device is lost.
pub fn compile(place: &Tuned, graph: &Graph, keep: &[ValueId], pinned: &HashMap<ValueId, Pinned>) -> Result<()> {
    let plan = Plan::new(graph, keep, &pinned.keys().copied().collect());
    let part_starts = |id: ValueId| {
        let own = if let Place::Same(other) = plan.places[id.0] { other } else { id };
        pinned.get(&own).map_or_else(|| vec![0], |place| place.part_starts.clone())
    };
    compile_all(&place.device, &kernels(&largest(graph, &plan, &part_starts, &place.device.facts, &place.tuning)))
}

/// What the nodes of a plan dispatch for the most rows that there can be, with the nodes' indices.
pub(super) fn largest(
    graph: &Graph,
    plan: &Plan,
    part_starts: &dyn Fn(ValueId) -> Vec<usize>,
    facts: &Facts,
    tuning: &Tuning,
) -> Vec<(usize, Vec<Dispatch>)> {
    plan.nodes.iter().map(|&node| (node, launch(graph, part_starts, facts, tuning, node, &MOST))).collect()
}

/// The kernels of these dispatches, each once.
pub(super) fn kernels(dispatches: &[(usize, Vec<Dispatch>)]) -> Vec<Wanted> {
    let mut seen = HashSet::new();
    let all = dispatches.iter().flat_map(|(_, list)| list);
    let new = all.filter(|dispatch| seen.insert((dispatch.kernel.name, format!("{:?}", dispatch.constants))));
    let wanted = |Dispatch { kernel, constants, params, .. }: &Dispatch| Wanted {
        kernel,
        constants: constants.clone(),
        params: params.clone(),
    };
    new.map(wanted).collect()
}

/// Inputs and outputs of a node for these row counts; a count above a value's maximum stands for the maximum. `part_starts`: first row of
/// each part of a value.
pub(super) fn operands(
    graph: &Graph,
    part_starts: &dyn Fn(ValueId) -> Vec<usize>,
    node: usize,
    counts: &Counts,
) -> (Vec<Operand>, Vec<Operand>) {
    let operands = |ids: &[ValueId]| -> Vec<Operand> {
        ids.iter()
            .map(|id| {
                let tensor = graph[*id].tensor;
                let rows = tensor.shape.rows.resolve(counts).min(tensor.shape.rows.max());
                Operand { tensor, rows, part_starts: part_starts(*id) }
            })
            .collect()
    };
    let node = &graph.nodes()[node];
    (operands(&node.inputs), operands(&node.outputs))
}

/// What a node dispatches for these row counts.
pub(super) fn launch(
    graph: &Graph,
    part_starts: &dyn Fn(ValueId) -> Vec<usize>,
    facts: &Facts,
    tuning: &Tuning,
    node: usize,
    counts: &Counts,
) -> Vec<Dispatch> {
    let (inputs, outputs) = operands(graph, part_starts, node, counts);
    let list = graph.nodes()[node].op.launch(&Call { inputs: &inputs, outputs: &outputs, device: facts, tuning });
    debug_assert!(list.iter().all(|dispatch| dispatch.params.len() <= ALIGNMENT));
    list
}
