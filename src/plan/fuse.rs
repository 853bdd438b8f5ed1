//! Fusing, a graph transform: two nodes become one where a kernel can do both without a pass over memory in between.
//!
//! There is one rule. A linear layer with an adapter is `p = x W^T` and then `y = s u B^T + p`; its input gradient is `p = d_u A` and then
//! `d_x = d_y W + p`. Where nothing else uses p, the pair becomes a [`MatmulLowRank`]. The rule is applied to the whole graph, after
//! [`crate::autograd`] has added its nodes, so that gradient rules see plain products only.

use crate::graph::{Graph, Node, Op, Origin, ValueId};
use crate::kernel::Layout;
use crate::ops::matmul::{Matmul, MatmulLowRank};
use std::any::Any;
use std::sync::Arc;

/// The same computation with adapters fused into the products that they stand beside. Values keep their handles; a fused product's own
/// value is made no more, unless it is one of `keep`.
pub fn fuse_adapters(graph: &Graph, keep: &[ValueId]) -> Graph {
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

fn matmul(op: &dyn Op) -> Option<&Matmul> {
    (op as &dyn Any).downcast_ref()
}
