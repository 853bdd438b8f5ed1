//! The reference executor: runs a [`Graph`] in f64 on the CPU with each op's plain loops.
//!
//! It is what every kernel and every plan is compared with. It keeps all values, so any of them can be looked at.

use crate::graph::{Counts, Graph, Matrix, ValueId};
use std::collections::HashMap;

/// Runs the whole graph. `leaves` holds every input, weight, adapter and state that a node uses; the result holds these and every output.
///
/// # Panics
/// If a leaf that a node uses is missing or of another size than its type says: a mistake of the calling code.
pub fn run(graph: &Graph, leaves: HashMap<ValueId, Matrix>, counts: &Counts) -> HashMap<ValueId, Matrix> {
    let mut values = leaves;
    for (&id, matrix) in &values {
        let value = &graph[id];
        let expected = value.tensor.shape.resolve(counts);
        assert_eq!([matrix.rows, matrix.columns], expected, "leaf `{}`", value.name);
    }
    for node in graph.nodes() {
        let inputs: Vec<&Matrix> = node
            .inputs
            .iter()
            .map(|id| values.get(id).unwrap_or_else(|| panic!("`{}` needs `{}`, which has no value", node.name, graph[*id].name)))
            .collect();
        let shapes: Vec<[usize; 2]> = node.outputs.iter().map(|&id| graph[id].tensor.shape.resolve(counts)).collect();
        let outputs = node.op.reference(&inputs, &shapes);
        for ((&id, matrix), shape) in node.outputs.iter().zip(outputs).zip(shapes) {
            assert_eq!([matrix.rows, matrix.columns], shape, "output of `{}`", node.name);
            values.insert(id, matrix);
        }
    }
    values
}
