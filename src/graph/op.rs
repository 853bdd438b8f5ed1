//! What the op of a node is: the trait that every op implements, and what its rules work with. The ops themselves are in `ops`.

use super::{Graph, ShapeError, TensorType, ValueId};
use crate::kernel::{Facts, Kernel, Tuning};
use crate::storage::{DType, encode};
use std::ops::Range;

/// An operation on matrices: what it computes, how its gradient is computed, and which kernels compute it.
pub trait Op: std::any::Any + std::fmt::Debug + Send + Sync {
    /// The op's one name: file, shader, registry.
    fn name(&self) -> &'static str;

    /// Types of the outputs, from those of the inputs.
    ///
    /// # Errors
    /// A [`ShapeError`] that names the input, what it is and what was expected.
    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError>;

    /// Its gradient rule, or that it has none, and why. There is no default: an op cannot be without a gradient by oversight.
    fn derivative(&self) -> Derivative<'_>;

    /// The same computation in plain f64 loops. Integers (ids, positions) are held as f64 too, exactly.
    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix>;

    /// Types of temporary buffers that the kernels need while the node runs.
    fn scratch(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let _ = inputs;
        Vec::new()
    }

    /// `(output, input)` pairs that share memory: the output *is* the input, updated in place.
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[]
    }

    /// Kernels, parameters and workgroup counts for one run. The number of dispatches, their kernels and their bindings depend
    /// on static facts only; parameters and workgroup counts follow `call`'s row counts (0 workgroups: nothing to do).
    fn launch(&self, call: &Call) -> Vec<Dispatch>;

    /// Floating-point operations, a multiply-add counted as two. Shapes are those of one run.
    fn flops(&self, inputs: &[[usize; 2]], outputs: &[[usize; 2]]) -> u64 {
        let _ = inputs;
        outputs.iter().map(|[rows, columns]| (rows * columns) as u64).sum()
    }

    /// Bytes that one run has to move between memory and the processor at the least: every input read once, every output written
    /// once. Kernels that read an operand several times rely on caches to come near it.
    fn traffic(&self, inputs: &[Operand], outputs: &[Operand]) -> u64 {
        inputs.iter().chain(outputs).map(Operand::bytes).sum()
    }
}

/// What an op is to `autograd`.
pub enum Derivative<'a> {
    /// An op with this gradient rule.
    Rule(&'a dyn Differentiate),
    /// An op without one, for this reason. To differentiate through it is an error that names it.
    None(&'static str),
}

/// An op with a gradient rule.
pub trait Differentiate {
    /// Appends nodes to `vjp.graph` that turn the gradients of the outputs into gradients of the inputs, and hands them over with
    /// [`Vjp::give`]: of every input that [`Vjp::wants`] names, since one that is not given is an error, as of a frozen operand.
    ///
    /// # Errors
    /// The [`ShapeError`] of a node that it appends, or of a gradient that it has no rule for.
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError>;
}

/// A matrix in f64, row-major: what the reference computes with.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Matrix {
    pub rows: usize,
    pub columns: usize,
    pub data: Vec<f64>,
    /// The blocks of a file that the values were read from, and their format.
    stored: Option<(DType, Vec<u8>)>,
}

impl Matrix {
    pub fn zeros([rows, columns]: [usize; 2]) -> Self {
        Self { rows, columns, data: vec![0.0; rows * columns], stored: None }
    }

    pub fn new([rows, columns]: [usize; 2], data: Vec<f64>) -> Self {
        assert_eq!(rows * columns, data.len(), "a [{rows}, {columns}] matrix has {} elements", rows * columns);
        Self { rows, columns, data, stored: None }
    }

    /// The values of these blocks.
    pub fn of_blocks(shape: [usize; 2], dtype: DType, blocks: Vec<u8>) -> Self {
        let mut values = vec![0.0; shape[0] * shape[1]];
        dtype.dequantise(&blocks, &mut values);
        Self { stored: Some((dtype, blocks)), ..Self::new(shape, values.into_iter().map(f64::from).collect()) }
    }

    /// As these rows rest on a device in this format: the very blocks that they were read from, or their values rounded.
    pub fn encoded(&self, dtype: DType, rows: Range<usize>) -> Vec<u8> {
        let values = rows.start * self.columns..rows.end * self.columns;
        match &self.stored {
            Some((of, blocks)) if *of == dtype => {
                let at = |value: usize| value / dtype.block() * dtype.block_bytes();
                dtype.pack(&blocks[at(values.start)..at(values.end)])
            }
            _ => encode(&self.data[values].iter().map(|&value| value as f32).collect::<Vec<_>>(), dtype),
        }
    }

    pub fn row(&self, row: usize) -> &[f64] {
        &self.data[row * self.columns..(row + 1) * self.columns]
    }

    pub fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.data[row * self.columns..(row + 1) * self.columns]
    }

    /// Element of an integer matrix (ids, positions).
    pub fn index(&self, row: usize, column: usize) -> usize {
        self.data[row * self.columns + column] as usize
    }
}

/// What a gradient rule works with: the node, the gradients of its outputs, and where its results go.
pub struct Vjp<'a> {
    pub graph: &'a mut Graph,
    /// The node's name; gradient nodes are named `d_<name>`.
    pub name: String,
    pub inputs: Vec<ValueId>,
    pub outputs: Vec<ValueId>,
    /// Gradient of each output; `None` where nothing depends on it.
    pub d_outputs: Vec<Option<ValueId>>,
    /// True where this node's first output is the loss itself, whose gradient is 1.
    pub is_loss: bool,
    /// Which inputs lie on a path from an adapter, and so need a gradient.
    pub(crate) wanted: Vec<bool>,
    /// Gradient of each input as far as other nodes have contributed to it.
    pub(crate) partial: Vec<Option<ValueId>>,
    pub(crate) given: Vec<Option<ValueId>>,
}

impl Vjp<'_> {
    /// Does this input need a gradient? A frozen weight never does.
    pub fn wants(&self, input: usize) -> bool {
        self.wanted[input]
    }

    /// What other nodes have contributed to this input's gradient so far. A rule that takes it must add it into what it gives:
    /// a kernel that can add on the way out saves a pass over memory.
    pub fn take_partial(&mut self, input: usize) -> Option<ValueId> {
        self.partial[input].take()
    }

    /// Hands over the gradient of an input.
    pub fn give(&mut self, input: usize, gradient: ValueId) {
        self.given[input] = Some(gradient);
    }

    /// Refuses gradients of all outputs but the first, for rules that have none.
    ///
    /// # Errors
    /// Names the output.
    pub fn only_first_output(&self, op: &'static str) -> Result<(), ShapeError> {
        match self.d_outputs.iter().skip(1).position(Option::is_some) {
            Some(index) => Err(ShapeError::new(op, "gradient", format!("one of output {}", index + 1), "one of output 0 only")),
            None => Ok(()),
        }
    }

    /// Name for a gradient node of this input.
    pub fn d_name(&self, input: usize) -> String {
        let name = &self.graph[self.inputs[input]].name;
        if name.starts_with("d_") { format!("d_({name})") } else { format!("d_{name}") }
    }
}

/// One run of one node, as seen by [`Op::launch`].
pub struct Call<'a> {
    pub inputs: &'a [Operand],
    pub outputs: &'a [Operand],
    pub device: &'a Facts,
    /// Forms of matmul that were measured to be fast on this very device.
    pub tuning: &'a Tuning,
}

/// An input or output of a node in one run.
#[derive(Clone, Debug)]
pub struct Operand {
    pub tensor: TensorType,
    /// Rows in this run.
    pub rows: usize,
    /// First row of each part, for a weight that is split over several bindings; `[0]` otherwise.
    pub part_starts: Vec<usize>,
}

impl Operand {
    pub fn columns(&self) -> usize {
        self.tensor.shape.columns
    }

    /// Elements in this run.
    pub fn elements(&self) -> usize {
        self.rows * self.columns()
    }

    /// Bytes in this run.
    pub fn bytes(&self) -> u64 {
        self.tensor.dtype.bytes(self.elements()) as u64
    }

    /// `(part, rows of the whole that it holds)`.
    pub fn parts(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> + '_ {
        (0..self.part_starts.len())
            .map(|part| (part, self.part_starts[part]..self.part_starts.get(part + 1).copied().unwrap_or(self.rows)))
    }
}

/// What stands behind a binding of a kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Bind {
    /// Input number `.0` of the node, whole or in its only part.
    Input(usize),
    /// Part `.1` of input number `.0`.
    InputPart(usize, usize),
    Output(usize),
    Scratch(usize),
}

/// One kernel call.
#[derive(Clone, Debug)]
pub struct Dispatch {
    pub kernel: &'static Kernel,
    /// Values of the kernel's `override` constants, on top of those of [`Kernel::constants`].
    pub constants: Vec<(&'static str, f64)>,
    /// Bytes of the parameter struct at binding 0.
    pub params: Vec<u8>,
    /// What bindings 1, 2, ... are.
    pub bindings: Vec<Bind>,
    pub workgroups: [u32; 3],
    /// Its part of what [`Op::flops`] and [`Op::traffic`] count, in any unit that the op's dispatches share; 0 if it only prepares or
    /// finishes.
    pub work: f64,
}

impl Dispatch {
    /// The only kernel call of a node: all inputs are bound in their order, then all outputs.
    pub fn only(kernel: &'static Kernel, call: &Call, params: Vec<u8>, workgroups: [u32; 3]) -> Self {
        let inputs = (0..call.inputs.len()).map(Bind::Input);
        let bindings = inputs.chain((0..call.outputs.len()).map(Bind::Output)).collect();
        Self { kernel, constants: Vec::new(), params, bindings, workgroups, work: 1.0 }
    }

    /// The same call on other operands: that of an op within another one.
    pub(crate) fn rebind(mut self, to: impl Fn(Bind) -> Bind) -> Self {
        self.bindings.iter_mut().for_each(|bind| *bind = to(*bind));
        self
    }
}
