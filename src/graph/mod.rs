//! The *what* of a computation: typed nodes with names and shapes, pure data, no GPU.
//!
//! A [`Graph`] is defined once and run many times, by the plan on the GPU or by the [reference](crate::reference) interpreter in f64.
//! Values are matrices `[rows, columns]`, mostly one row a token. A value either comes from outside (an input, a frozen weight, an
//! adapter, a piece of state) or is an output of a node. Gradients are ordinary nodes, appended by [`crate::autograd`].

mod op;
mod shape;

pub use crate::storage::DType;
pub use op::{Bind, Call, Derivative, Differentiate, Dispatch, Matrix, Op, Operand, Vjp};
pub use shape::{Counts, Rows, Shape, ShapeError, TensorType};

use std::sync::Arc;

/// Handle of a value in its graph.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ValueId(pub usize);

/// Handle of a node in its graph. Nodes are numbered in the order in which they run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub usize);

/// Where a value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Written by the host before a run: token ids, positions, targets.
    Input,
    /// A frozen weight of the base model. Never has a gradient.
    Weight,
    /// A trainable adapter matrix.
    Adapter,
    /// Kept on the device between runs and updated in place: optimizer moments, the key/value cache.
    State,
    /// Output number `.1` of node `.0`.
    Node(NodeId, usize),
    /// Of a node that was fused with another one: made no more, and used by none.
    Fused,
}

/// A matrix that exists during a run.
#[derive(Clone, Debug)]
pub struct Value {
    /// Path such as `layers.3.self_attn.q_proj.lora_a`.
    pub name: String,
    pub tensor: TensorType,
    pub origin: Origin,
}

/// One application of an op.
#[derive(Clone, Debug)]
pub struct Node {
    /// Path such as `layers.3.self_attn.q_proj`; outputs are named after it.
    pub name: String,
    pub op: Arc<dyn Op>,
    pub inputs: Vec<ValueId>,
    pub outputs: Vec<ValueId>,
}

/// A computation: values, and the nodes that make them, in running order.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    values: Vec<Value>,
    nodes: Vec<Node>,
}

impl Graph {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value that comes from outside: an input, a weight, an adapter, a piece of state.
    pub fn leaf(&mut self, name: impl Into<String>, tensor: TensorType, origin: Origin) -> ValueId {
        debug_assert!(!matches!(origin, Origin::Node(..)), "a leaf is not the output of a node");
        self.values.push(Value { name: name.into(), tensor, origin });
        ValueId(self.values.len() - 1)
    }

    /// Applies `op` to `inputs` and returns its outputs.
    ///
    /// # Errors
    /// The op's [`ShapeError`], with the node's name in it.
    pub fn apply(
        &mut self,
        op: impl Op + 'static,
        inputs: &[ValueId],
        name: impl Into<String>,
    ) -> Result<Vec<ValueId>, ShapeError> {
        self.apply_shared(Arc::new(op), inputs, name)
    }

    /// [`Graph::apply`] for an op that is held elsewhere too.
    ///
    /// # Errors
    /// The op's [`ShapeError`], with the node's name in it.
    pub fn apply_shared(
        &mut self,
        op: Arc<dyn Op>,
        inputs: &[ValueId],
        name: impl Into<String>,
    ) -> Result<Vec<ValueId>, ShapeError> {
        let name = name.into();
        let types: Vec<TensorType> = inputs.iter().map(|&id| self[id].tensor).collect();
        let outputs = op.infer(&types).map_err(|error| error.at(&name))?;
        let node = NodeId(self.nodes.len());
        let first = self.values.len();
        for (index, &tensor) in outputs.iter().enumerate() {
            let name = if index == 0 { name.clone() } else { format!("{name}#{index}") };
            self.values.push(Value { name, tensor, origin: Origin::Node(node, index) });
        }
        let outputs: Vec<ValueId> = (first..self.values.len()).map(ValueId).collect();
        self.nodes.push(Node { name, op, inputs: inputs.to_vec(), outputs: outputs.clone() });
        Ok(outputs)
    }

    /// [`Graph::apply`] for an op of which only the first output is of interest.
    ///
    /// # Errors
    /// The op's [`ShapeError`], with the node's name in it.
    pub fn apply_one(
        &mut self,
        op: impl Op + 'static,
        inputs: &[ValueId],
        name: impl Into<String>,
    ) -> Result<ValueId, ShapeError> {
        Ok(self.apply(op, inputs, name)?[0])
    }

    /// A value of the same type, for another node to make.
    pub(crate) fn another(&mut self, id: ValueId) -> ValueId {
        let mut value = self[id].clone();
        value.name.push_str(".again");
        self.values.push(value);
        ValueId(self.values.len() - 1)
    }

    /// The same values, made by these nodes, whose outputs they are.
    pub(crate) fn with_nodes(&self, nodes: Vec<Node>) -> Self {
        let mut values = self.values.clone();
        values.iter_mut().filter(|value| matches!(value.origin, Origin::Node(..))).for_each(|value| value.origin = Origin::Fused);
        for (index, node) in nodes.iter().enumerate() {
            let outputs = node.outputs.iter().enumerate();
            outputs.for_each(|(number, output)| values[output.0].origin = Origin::Node(NodeId(index), number));
        }
        Self { values, nodes }
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// All values in order, with their handles.
    pub fn value_ids(&self) -> impl Iterator<Item = ValueId> + use<> {
        (0..self.values.len()).map(ValueId)
    }

    /// Does this value come from outside, and not from a node?
    pub fn is_leaf(&self, id: ValueId) -> bool {
        !matches!(self[id].origin, Origin::Node(..) | Origin::Fused)
    }

    /// The value with this name, if there is one; the first where several share it.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.values.iter().position(|value| value.name == name).map(ValueId)
    }

    /// Floating-point operations of one run with these row counts, counting a multiply-add as two.
    pub fn flops(&self, counts: &Counts) -> u64 {
        self.flops_of(counts, |_| true)
    }

    /// [`Graph::flops`] of some of the ops.
    pub fn flops_of(&self, counts: &Counts, wanted: impl Fn(&dyn Op) -> bool) -> u64 {
        self.nodes
            .iter()
            .filter(|node| wanted(&*node.op))
            .map(|node| {
                let of = |ids: &[ValueId]| ids.iter().map(|&id| self[id].tensor.shape.resolve(counts)).collect::<Vec<_>>();
                node.op.flops(&of(&node.inputs), &of(&node.outputs))
            })
            .sum()
    }
}

impl std::ops::Index<ValueId> for Graph {
    type Output = Value;
    fn index(&self, id: ValueId) -> &Value {
        &self.values[id.0]
    }
}

impl std::ops::Index<NodeId> for Graph {
    type Output = Node;
    fn index(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }
}
