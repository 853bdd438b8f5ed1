//! Recompute, also called activation checkpointing (Chen et al. 2016, arXiv 1604.06174): a transform of a graph that trades arithmetic
//! for memory.
//!
//! The backward pass of a segment (a layer, say) reads values that the segment's forward pass made. Plainly they rest in memory from
//! the one to the other. [`recompute`] repeats the nodes that make them instead, from what enters the segment, right before the
//! backward nodes that read them: between the two passes only what enters the segment is kept. The repeated nodes are the same ops on
//! the same inputs, so every number of the run stays the same bit by bit; dropout counts instead of drawing, so its masks do too.
//!
//! Handles of values stay valid. What a value costs is decided by the order of the nodes, and so by liveness alone.

use crate::graph::{Graph, Node, Shape, ValueId};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// How much of a segment is computed again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Nodes that cost next to nothing (norms, activation functions, dropout) and whose inputs are kept anyway.
    Cheap,
    /// All that the backward pass needs, from what enters the segment.
    Whole,
}

/// A part of the forward pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Indices of its nodes. Segments do not overlap.
    pub nodes: Range<usize>,
    pub extent: Extent,
}

/// Floating-point operations an element of output up to which a node is cheap: memory traffic takes longer. A matrix product has two
/// for each column of its operand.
const CHEAP_FLOPS: u64 = 16;

/// The graph with these segments computed again for the backward pass, which begins at node `forward`.
///
/// A value that a later part of the forward pass reads too (what leaves the segment) is kept. Nodes that update something in place,
/// and nodes that read what is updated in place, are never repeated: their outputs are kept.
pub fn recompute(graph: &Graph, forward: usize, segments: &[Segment]) -> Graph {
    let repeats = Repeats::find(graph, forward, segments);
    let mut result = graph.clone();
    let mut nodes = Vec::new();
    let mut copies: HashMap<ValueId, ValueId> = HashMap::new();
    for (index, node) in graph.nodes().iter().enumerate() {
        for &repeated in repeats.before.get(&index).into_iter().flatten() {
            let node = &graph.nodes()[repeated];
            let outputs: Vec<ValueId> = node.outputs.iter().map(|&id| result.another(id)).collect();
            let inputs = renamed(&node.inputs, &copies);
            let pairs = node.outputs.iter().copied().zip(outputs.iter().copied());
            copies.extend(pairs.filter(|(original, _)| repeats.inner.contains(original)));
            nodes.push(Node { name: format!("{}.again", node.name), op: node.op.clone(), inputs, outputs });
        }
        let inputs = if index < forward { node.inputs.clone() } else { renamed(&node.inputs, &copies) };
        nodes.push(Node { inputs, ..node.clone() });
    }
    result.with_nodes(nodes)
}

fn renamed(ids: &[ValueId], copies: &HashMap<ValueId, ValueId>) -> Vec<ValueId> {
    ids.iter().map(|id| copies.get(id).copied().unwrap_or(*id)).collect()
}

/// What is repeated, and where.
struct Repeats {
    /// Forward nodes that run again right before a backward node, by that node; in forward order.
    before: HashMap<usize, Vec<usize>>,
    /// Values that only their own segment and the backward pass read.
    inner: HashSet<ValueId>,
}

impl Repeats {
    fn find(graph: &Graph, forward: usize, segments: &[Segment]) -> Self {
        let nodes = graph.nodes();
        // By value: the first backward node that reads it, itself or by way of a repeated node.
        let mut first_reader: Vec<Option<usize>> = vec![None; graph.values().len()];
        for (index, node) in nodes.iter().enumerate().skip(forward).rev() {
            node.inputs.iter().for_each(|id| first_reader[id.0] = Some(index));
        }
        let updated = updated_in_place(graph);
        let mut before: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut inner = HashSet::new();
        for segment in segments {
            inner.extend(inner_values(graph, forward, &segment.nodes));
            let repeatable = repeatable(graph, segment, &first_reader, &inner, &updated);
            for index in segment.nodes.clone().rev().filter(|index| repeatable.contains(index)) {
                let wanted = nodes[index].outputs.iter().filter(|id| inner.contains(id));
                let Some(reader) = wanted.filter_map(|id| first_reader[id.0]).min() else { continue };
                before.entry(reader).or_default().push(index);
                for input in &nodes[index].inputs {
                    first_reader[input.0] = Some(first_reader[input.0].map_or(reader, |known| known.min(reader)));
                }
            }
        }
        before.values_mut().for_each(|list| list.sort_unstable());
        Self { before, inner }
    }
}

/// Values made by these nodes that no other node of the forward pass reads.
fn inner_values(graph: &Graph, forward: usize, nodes: &Range<usize>) -> HashSet<ValueId> {
    let mut inner: HashSet<ValueId> = graph.nodes()[nodes.clone()].iter().flat_map(|node| &node.outputs).copied().collect();
    for (index, node) in graph.nodes()[..forward].iter().enumerate() {
        if !nodes.contains(&index) {
            node.inputs.iter().for_each(|id| {
                inner.remove(id);
            });
        }
    }
    inner
}

/// Values that share memory with another one that is updated in place: what they hold depends on when they are read.
fn updated_in_place(graph: &Graph) -> HashSet<ValueId> {
    let pairs = |node: &'_ Node| -> Vec<ValueId> {
        node.op.in_place().iter().flat_map(|&(output, input)| [node.outputs[output], node.inputs[input]]).collect()
    };
    graph.nodes().iter().flat_map(pairs).collect()
}

/// Nodes of a segment that may run again.
fn repeatable(
    graph: &Graph,
    segment: &Segment,
    first_reader: &[Option<usize>],
    inner: &HashSet<ValueId>,
    updated: &HashSet<ValueId>,
) -> HashSet<usize> {
    let mut chosen = HashSet::new();
    let mut remade: HashSet<ValueId> = HashSet::new();
    for index in segment.nodes.clone() {
        let node = &graph.nodes()[index];
        if !node.op.in_place().is_empty() || node.inputs.iter().any(|id| updated.contains(id)) {
            continue;
        }
        // What the backward pass reads anyway, and what comes from outside the graph, is there when the node runs again.
        let at_hand = |id: &ValueId| graph.is_leaf(*id) || first_reader[id.0].is_some() || remade.contains(id);
        if segment.extent == Extent::Whole || (is_cheap(graph, node) && node.inputs.iter().all(at_hand)) {
            chosen.insert(index);
            remade.extend(node.outputs.iter().filter(|id| inner.contains(id)));
        }
    }
    chosen
}

fn is_cheap(graph: &Graph, node: &Node) -> bool {
    let largest = |id: &ValueId| -> [usize; 2] {
        let Shape { rows, columns } = graph[*id].tensor.shape;
        [rows.max(), columns]
    };
    let [inputs, outputs] = [&node.inputs, &node.outputs].map(|ids| ids.iter().map(largest).collect::<Vec<_>>());
    let elements: u64 = outputs.iter().map(|[rows, columns]| (rows * columns) as u64).sum();
    node.op.flops(&inputs, &outputs) <= CHEAP_FLOPS * elements
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Root, backward};
    use crate::graph::{Origin, Rows, TensorType};
    use crate::kernel::Layout;
    use crate::ops::accumulate::Accumulate;
    use crate::ops::add::Add;
    use crate::ops::glu::{Activation, Glu};
    use crate::ops::matmul::Matmul;

    const SWIGLU: Glu = Glu { activation: Activation::Silu };
    const TENSOR: TensorType =
        TensorType { shape: Shape { rows: Rows::Fixed(16), columns: 16 }, dtype: crate::graph::DType::F32 };

    fn names(graph: &Graph) -> Vec<&str> {
        graph.nodes().iter().map(|node| node.name.as_str()).collect()
    }

    /// `y = (x w) w + glu(x w, x w)`, with its gradient by x.
    fn example() -> (Graph, usize, ValueId) {
        let mut graph = Graph::new();
        let [x, w, seed] = ["x", "w", "seed"].map(|name| graph.leaf(name, TENSOR, Origin::Adapter));
        let product = Matmul { layout: Layout::NN, scale: 1.0 };
        let u = graph.apply_one(product, &[x, w], "u").unwrap();
        let v = graph.apply_one(product, &[u, w], "v").unwrap();
        let s = graph.apply_one(SWIGLU, &[u, u], "s").unwrap();
        let y = graph.apply_one(Add, &[v, s], "y").unwrap();
        let forward = graph.nodes().len();
        let gradient = backward(&mut graph, Root::Seed(y, seed), &[x]).unwrap()[0].unwrap();
        (graph, forward, gradient)
    }

    #[test]
    fn a_node_runs_again_right_before_its_first_backward_reader() {
        let (graph, forward, gradient) = example();
        let again = recompute(&graph, forward, &[Segment { nodes: 0..forward, extent: Extent::Whole }]);
        let found = names(&again);
        let at = found.iter().position(|name| *name == "u.again").expect("u is read by glu's gradient");
        // Nothing else is: v, s and y are read by no backward node.
        assert_eq!(found.len(), graph.nodes().len() + 1);
        let copy = again.nodes()[at].outputs[0];
        assert!(again.nodes()[at + 1].inputs.contains(&copy), "{found:?}");
        let u = again.find("u").unwrap();
        assert!(
            again.nodes()[forward..].iter().all(|node| !node.inputs.contains(&u)),
            "the original is read in the forward pass alone"
        );
        assert_eq!(again[gradient].name, graph[gradient].name, "handles stay valid");
        assert!(again.nodes().iter().enumerate().all(|(index, node)| {
            node.outputs.iter().enumerate().all(|(slot, id)| again[*id].origin == Origin::Node(crate::graph::NodeId(index), slot))
        }));
        // A product is not cheap.
        let cheap = recompute(&graph, forward, &[Segment { nodes: 0..forward, extent: Extent::Cheap }]);
        assert_eq!(names(&cheap), names(&graph));
    }

    #[test]
    fn what_leaves_the_segment_is_kept() {
        let (graph, forward, _) = example();
        let again = recompute(&graph, forward, &[Segment { nodes: 0..1, extent: Extent::Whole }]);
        assert_eq!(names(&again), names(&graph), "u is read by the rest of the forward pass");
    }

    /// `s = glu(state, state)` is read by a backward node, but the state has changed by then.
    #[test]
    fn what_reads_or_updates_state_never_runs_again() {
        let mut graph = Graph::new();
        let state = graph.leaf("state", TENSOR, Origin::State);
        let x = graph.leaf("x", TENSOR, Origin::Adapter);
        let s = graph.apply_one(Add, &[state, state], "s").unwrap();
        let y = graph.apply_one(SWIGLU, &[s, x], "y").unwrap();
        let after = graph.apply_one(Accumulate, &[state, y], "update").unwrap();
        graph.apply_one(SWIGLU, &[after, x], "z").unwrap();
        let forward = graph.nodes().len();
        let seed = graph.leaf("seed", TENSOR, Origin::Input);
        graph.apply_one(Add, &[s, seed], "reads_s").unwrap();
        graph.apply_one(Add, &[y, after], "reads_y_and_update").unwrap();
        let again = recompute(&graph, forward, &[Segment { nodes: 0..forward, extent: Extent::Whole }]);
        let repeated: Vec<&str> = names(&again).into_iter().filter(|name| name.ends_with(".again")).collect();
        assert_eq!(repeated, ["y.again"], "s reads the state before its update, which is made once");
    }
}
