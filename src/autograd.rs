//! Reverse-mode differentiation: appends gradient nodes to a graph.
//!
//! [`backward`] first finds which values depend on the adapters, then walks the nodes from the loss back and asks each node's op for its
//! gradient rule ([`crate::graph::Op::derivative`]), but only for inputs that depend on an adapter. So a frozen weight never has a gradient node,
//! and everything below the lowest adapted layer has no backward at all and keeps no activation.

use crate::graph::{DType, Derivative, Graph, Origin, ShapeError, ValueId, Vjp};
use crate::ops::add::Add;
use std::collections::HashMap;

/// Where differentiation starts.
#[derive(Clone, Copy, Debug)]
pub enum Root {
    /// A loss: its gradient is 1, which its op folds into its own rule.
    Loss(ValueId),
    /// Any value, with the gradient that it receives.
    Seed(ValueId, ValueId),
}

/// Appends nodes that compute the gradient of `root` by each value of `wrt`, and returns these gradients in the order of `wrt`;
/// `None` where the root does not depend on it.
///
/// # Errors
/// Names the op that has no gradient, or none by an input that depends on `wrt`: a gradient is never left out in silence. Or the
/// [`ShapeError`] of a gradient node; a correct rule never gives one.
pub fn backward(graph: &mut Graph, root: Root, wrt: &[ValueId]) -> Result<Vec<Option<ValueId>>, ShapeError> {
    let gradients = gradients(graph, &[root], wrt)?;
    Ok(wrt.iter().map(|id| gradients.get(id).copied()).collect())
}

/// [`backward`] from several roots at once, whose sum is differentiated, with the gradient of every value that has one: of those between `wrt`
/// and a root, and of no other.
///
/// # Errors
/// As [`backward`].
pub fn gradients(graph: &mut Graph, roots: &[Root], wrt: &[ValueId]) -> Result<HashMap<ValueId, ValueId>, ShapeError> {
    let depends = depends_on(graph, wrt);
    let mut gradients: HashMap<ValueId, ValueId> = HashMap::new();
    let mut losses = Vec::new();
    for root in roots {
        match *root {
            Root::Loss(loss) => losses.push(loss),
            Root::Seed(value, gradient) => {
                let before = gradients.insert(value, gradient);
                debug_assert!(before.is_none(), "a value is a root once");
            }
        }
    }
    for index in (0..graph.nodes().len()).rev() {
        let node = graph.nodes()[index].clone();
        let is_loss = losses.iter().any(|loss| node.outputs.contains(loss));
        let d_outputs: Vec<Option<ValueId>> = node.outputs.iter().map(|id| gradients.get(id).copied()).collect();
        let wanted: Vec<bool> = node.inputs.iter().map(|id| depends[id.0]).collect();
        if !wanted.contains(&true) || !(is_loss || d_outputs.iter().any(Option::is_some)) {
            continue;
        }
        let rule = match node.op.derivative() {
            Derivative::Rule(rule) => rule,
            Derivative::None(why) => {
                return Err(ShapeError::new(node.op.name(), "gradient", format!("none: {why}"), "an op with a gradient rule")
                    .at(&node.name));
            }
        };
        // A value that feeds two inputs of the node shows its partial gradient at the first only, so that it is added once.
        let first_use = |slot: usize| !node.inputs[..slot].contains(&node.inputs[slot]);
        let partial: Vec<Option<ValueId>> =
            (0..node.inputs.len()).map(|slot| gradients.get(&node.inputs[slot]).copied().filter(|_| first_use(slot))).collect();
        let given = vec![None; node.inputs.len()];
        let mut vjp = Vjp {
            graph: &mut *graph,
            name: node.name.clone(),
            inputs: node.inputs.clone(),
            outputs: node.outputs,
            d_outputs,
            is_loss,
            wanted,
            partial: partial.clone(),
            given,
        };
        rule.vjp(&mut vjp)?;
        let Vjp { given, partial: left, .. } = vjp;
        for (slot, &input) in node.inputs.iter().enumerate() {
            let Some(new) = given[slot] else {
                if depends[input.0] {
                    let what = format!("gradient by input {slot}, `{}`", graph[input].name);
                    return Err(ShapeError::new(node.op.name(), what, "none: it is frozen", "an input with a gradient rule")
                        .at(&node.name));
                }
                continue;
            };
            // A partial gradient that the rule took is part of what it gave; one that it left is added here.
            let taken = partial[slot].is_some() && left[slot].is_none();
            let total = match gradients.get(&input).copied().filter(|_| !taken) {
                Some(before) => {
                    let name = format!("{}+", graph[new].name);
                    graph.apply_one(Add, &[before, new], name)?
                }
                None => new,
            };
            gradients.insert(input, total);
        }
    }
    Ok(gradients)
}

/// For every value: does it depend on one of `wrt`?
fn depends_on(graph: &Graph, wrt: &[ValueId]) -> Vec<bool> {
    let mut depends = vec![false; graph.values().len()];
    for id in wrt {
        debug_assert!(!matches!(graph[*id].origin, Origin::Weight), "frozen weights have no gradient");
        depends[id.0] = true;
    }
    for node in graph.nodes() {
        if node.inputs.iter().any(|id| depends[id.0]) {
            // What is chosen by a number, as an expert is by the router, does not change with it but where it jumps.
            let numbers = node.outputs.iter().filter(|id| graph[**id].tensor.dtype != DType::U32);
            numbers.for_each(|id| depends[id.0] = true);
        }
    }
    depends
}
