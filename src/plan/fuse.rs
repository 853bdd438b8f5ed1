//! Fusing, a graph transform: nodes become one where a kernel can do the work of all without a pass over memory, or a launch, in between.
//!
//! There are two rules. A linear layer with an adapter is `p = x W^T` and then `y = s u B^T + p`; its input gradient is `p = d_u A` and then
//! `d_x = d_y W + p`. Where nothing else uses p, the pair becomes a [`MatmulLowRank`]. And layers with one input (q, k, v; gate, up) have
//! `u_i = x A_i^T` and `d_A_i = d_u_i^T x` of one x, which become a [`MatmulTogether`]. The rules are applied to the whole graph, after
//! [`crate::autograd`] has added its nodes, so that gradient rules see plain products only.

use crate::graph::{DType, Graph, Node, Op, Origin, TensorType, ValueId};
use crate::kernel::Layout;
use crate::ops::matmul::{Matmul, MatmulLowRank, MatmulTogether};
use std::any::Any;
use std::sync::Arc;

/// The same computation with adapters fused into the products that they stand beside. Values keep their handles; a fused product's own
/// value is made no more, unless it is one of `keep`.
pub fn fuse_adapters(graph: &Graph, keep: &[ValueId]) -> Graph {
    together(&with_terms(graph, keep))
}

/// The first rule: products with the low-rank terms that stand beside them.
fn with_terms(graph: &Graph, keep: &[ValueId]) -> Graph {
    let mut uses = vec![0; graph.values().len()];
    graph.nodes().iter().flat_map(|node| &node.inputs).chain(keep).for_each(|id| uses[id.0] += 1);
    let mut nodes: Vec<Option<Node>> = Vec::with_capacity(graph.nodes().len());
    let mut is_fused = vec![false; graph.nodes().len()];
    for (index, node) in graph.nodes().iter().enumerate() {
        let fused = with_addend(graph, node, &uses).filter(|(first, _)| !is_fused[*first]).map(|(first, fused)| {
            nodes[first] = None;
            is_fused[index] = true;
            fused
        });
        nodes.push(Some(fused.unwrap_or_else(|| node.clone())));
    }
    graph.with_nodes(nodes.into_iter().flatten().collect())
}

/// If a product's addend is made by another product, and one of the two is with an adapter: the index of that other one, and what both
/// are together.
fn with_addend(graph: &Graph, last: &Node, uses: &[usize]) -> Option<(usize, Node)> {
    let &[_, _, addend] = &*last.inputs else { return None };
    let Origin::Node(index, _) = graph[addend].origin else { return None };
    let first = &graph[index];
    let (of_first, of_last) = (matmul(&*first.op)?, matmul(&*last.op)?);
    let is_term = |node: &Node| graph[node.inputs[1]].origin == Origin::Adapter;
    let (product, of_product, term, of_term) = match (is_term(first), is_term(last)) {
        (false, true) => (first, of_first, last, of_last),
        (true, false) => (last, of_last, first, of_first),
        _ => return None,
    };
    let layout = of_product.layout;
    let fits = layout != Layout::TN && of_term.layout == layout && of_product.scale == 1.0 && uses[addend.0] == 1;
    fits.then(|| {
        let inputs = [&product.inputs[..2], &term.inputs[..2], &first.inputs[2..]].concat();
        (index.0, Node { op: Arc::new(MatmulLowRank { layout, scale: of_term.scale }), inputs, ..last.clone() })
    })
}

/// What products that are made together have in common: layout and scale, the operand, the type of the other one.
type Common = (bool, u64, ValueId, TensorType);

/// The second rule: products of adapters that share an operand are made together, those of the forward pass where the first of them
/// stands, since all that they need is there; gradients where the last does, if nothing reads one before.
fn together(graph: &Graph) -> Graph {
    let nodes = graph.nodes();
    let mut first_use = vec![usize::MAX; graph.values().len()];
    for (index, node) in nodes.iter().enumerate().rev() {
        node.inputs.iter().for_each(|id| first_use[id.0] = index);
    }
    let mut groups: Vec<(Common, Vec<usize>)> = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let Some(common) = shares(graph, node) else { continue };
        // Layers near each other alone: a group that is full begins another, and one whose results are needed does.
        let fits = |(other, members): &&mut (Common, Vec<usize>)| {
            let is_read = || members.iter().any(|&member| first_use[nodes[member].outputs[0].0] <= index);
            *other == common && members.len() < MatmulTogether::MOST && !(common.0 && is_read())
        };
        match groups.iter_mut().rev().find(fits) {
            Some((_, members)) => members.push(index),
            None => groups.push((common, vec![index])),
        }
    }
    let mut made: Vec<Option<Node>> = nodes.iter().cloned().map(Some).collect();
    for ((is_gradient, scale, shared, _), members) in groups.into_iter().filter(|(_, members)| members.len() > 1) {
        let (layout, at) = match is_gradient {
            true => (Layout::TN, members[members.len() - 1]),
            false => (Layout::NT, members[0]),
        };
        let own = |&member: &usize| nodes[member].inputs[if is_gradient { 0 } else { 1 }];
        let names: Vec<&str> = members.iter().map(|&member| nodes[member].name.as_str()).collect();
        let node = Node {
            name: names.join(" + "),
            op: Arc::new(MatmulTogether { layout, scale: f64::from_bits(scale) }),
            inputs: std::iter::once(shared).chain(members.iter().map(own)).collect(),
            outputs: members.iter().map(|&member| nodes[member].outputs[0]).collect(),
        };
        members.iter().for_each(|&member| made[member] = None);
        made[at] = Some(node);
    }
    graph.with_nodes(made.into_iter().flatten().collect())
}

/// If this is a product of f32 matrices as adapters have them: `x A^T`, or a gradient `d_u^T x`.
fn shares(graph: &Graph, node: &Node) -> Option<Common> {
    let product = matmul(&*node.op)?;
    let &[a, b] = &*node.inputs else { return None };
    let (is_gradient, shared, own) = match product.layout {
        Layout::NT if graph[b].origin == Origin::Adapter => (false, a, b),
        Layout::TN => (true, b, a),
        _ => return None,
    };
    let tensor = graph[own].tensor;
    (tensor.dtype == DType::F32).then_some((is_gradient, product.scale.to_bits(), shared, tensor))
}

fn matmul(op: &dyn Op) -> Option<&Matmul> {
    (op as &dyn Any).downcast_ref()
}
