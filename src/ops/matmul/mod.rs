//! `matmul`: matrix product in the three layouts that a linear layer needs, with scaling and an optional addend on the way out.
//!
//! | layout | formula | a | b | out | used for |
//! |---|---|---|---|---|---|
//! | NT | `s a b^T + c` | `[m, k]` | `[n, k]` | `[m, n]` | forward; weights rest as stored, `[out, in]` |
//! | NN | `s a b + c` | `[m, k]` | `[k, n]` | `[m, n]` | gradient of the input: `d_y W` |
//! | TN | `s a^T b + c` | `[k, m]` | `[k, n]` | `[m, n]` | gradient of an adapter: `d_y^T u`, `d_u^T x`; k runs over tokens |
//!
//! The addend `c` is `[m, n]`. It makes LoRA's `y = x W^T + s u B^T` two products without a pass for the sum, and carries the residual.
//!
//! **Gradient.** With `d` the gradient of the output:
//! NT: `d_a = s d b` (NN), `d_b = s d^T a` (TN). NN: `d_a = s d b^T` (NT), `d_b = s a^T d` (TN).
//! TN: `d_a = s b d^T` (NT), `d_b = s a d` (NN). Always `d_c = d`. A contribution that `d_a` already has from elsewhere becomes its addend.
//!
//! `a` is f32; `b` may rest in any format of weights ([`DType::is_weight`]) in NT and NN. Sums are accumulated in f32; the large products of a device that was
//! opened for it are of f16 operands (`arithmetic`).

mod algorithms;
mod arithmetic;
mod examples;
mod experts;
mod forms;
mod launch;
mod low_rank;
mod together;
mod tuning;
mod variants;

pub use algorithms::kernels;
pub(super) use examples::entry;
pub use experts::MatmulExperts;
pub(super) use experts::entry as experts_entry;
pub use low_rank::MatmulLowRank;
pub(super) use low_rank::entry as low_rank_entry;
pub use together::MatmulTogether;
pub(super) use together::entry as together_entry;
pub use tuning::fingerprint;

use super::expect;
use crate::graph::{
    Call, DType, Derivative, Differentiate, Dispatch, Graph, Matrix, Op, Rows, ShapeError, TensorType, ValueId, Vjp,
};
use crate::kernel::Layout;
use rayon::prelude::*;

/// Inputs `a, b` and optionally `c`; output `scale * op(a) op(b) + c`.
#[derive(Clone, Copy, Debug)]
pub struct Matmul {
    pub layout: Layout,
    pub scale: f64,
}

/// Where a product begins in its buffers, and whether it adds to what `out` holds.
#[derive(Clone, Copy, Default)]
pub(super) struct At {
    pub a_row: usize,
    /// Of TN only.
    pub b_row: usize,
    pub out_row: usize,
    pub adds: bool,
}

impl Matmul {
    /// Appends the product to `graph`, with the addend if there is one.
    ///
    /// # Errors
    /// A [`ShapeError`] if the operands do not fit.
    pub fn append(
        self,
        graph: &mut Graph,
        [a, b]: [ValueId; 2],
        addend: Option<ValueId>,
        name: impl Into<String>,
    ) -> Result<ValueId, ShapeError> {
        let mut inputs = vec![a, b];
        inputs.extend(addend);
        graph.apply_one(self, &inputs, name)
    }

    /// [`Op::launch`] for a product of rows within its buffers.
    pub(super) fn launch_at(&self, call: &Call, at: At) -> Vec<Dispatch> {
        launch::launch(self, call, at)
    }

    /// Layout and operands of the products that are the gradients of a and b, where d is that of out.
    fn gradients(&self, d: ValueId, [a, b]: [ValueId; 2]) -> [(Layout, [ValueId; 2]); 2] {
        match self.layout {
            Layout::NT => [(Layout::NN, [d, b]), (Layout::TN, [d, a])],
            Layout::NN => [(Layout::NT, [d, b]), (Layout::TN, [a, d])],
            Layout::TN => [(Layout::NT, [b, d]), (Layout::NN, [a, d])],
        }
    }

    /// The gradients of the inputs a and b, which are those numbered `slots`.
    fn vjp_of(&self, vjp: &mut Vjp, slots: [usize; 2]) -> Result<(), ShapeError> {
        let Some(d) = vjp.d_outputs[0] else { return Ok(()) };
        let (a, b) = (vjp.inputs[slots[0]], vjp.inputs[slots[1]]);
        for (input, (layout, operands)) in slots.into_iter().zip(self.gradients(d, [a, b])) {
            if vjp.wants(input) {
                let partial = vjp.take_partial(input);
                let name = vjp.d_name(input);
                let gradient = self.with(layout).append(vjp.graph, operands, partial, name)?;
                vjp.give(input, gradient);
            }
        }
        Ok(())
    }

    fn with(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }
}

/// Rows, columns and length of the sums of one product: `[m, n, k]`.
fn sizes(layout: Layout, [a_rows, a_columns]: [usize; 2], [b_rows, b_columns]: [usize; 2]) -> [usize; 3] {
    match layout {
        Layout::NT => [a_rows, b_rows, a_columns],
        Layout::NN => [a_rows, b_columns, a_columns],
        Layout::TN => [a_columns, b_columns, a_rows],
    }
}

impl Op for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        if inputs.len() != 3 {
            expect::count("matmul", inputs, 2)?;
        }
        let (a, b) = (inputs[0], inputs[1]);
        expect::dtype("matmul", "a", a, DType::F32)?;
        match self.layout {
            Layout::NT | Layout::NN => expect::weight("matmul", "b", b)?,
            Layout::TN => expect::dtype("matmul", "b", b, DType::F32)?,
        }
        let (rows, columns) = match self.layout {
            Layout::NT => {
                expect::columns("matmul", "b", b, a.shape.columns)?;
                let Rows::Fixed(n) = b.shape.rows else {
                    return Err(ShapeError::new("matmul", "b", b, "a fixed number of rows"));
                };
                (a.shape.rows, n)
            }
            Layout::NN => {
                expect::rows("matmul", "b", b, Rows::Fixed(a.shape.columns))?;
                (a.shape.rows, b.shape.columns)
            }
            Layout::TN => {
                expect::rows("matmul", "b", b, a.shape.rows)?;
                (Rows::Fixed(a.shape.columns), b.shape.columns)
            }
        };
        let out = TensorType::f32(rows, columns);
        if let Some(&addend) = inputs.get(2) {
            expect::same("matmul", "addend", addend, out)?;
        }
        Ok(vec![out])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let (a, b) = (inputs[0], inputs[1]);
        let [_, n, k] = sizes(self.layout, [a.rows, a.columns], [b.rows, b.columns]);
        let mut out = Matrix::zeros(outputs[0]);
        if out.data.is_empty() {
            return vec![out];
        }
        out.data.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
            for (j, element) in row.iter_mut().enumerate() {
                let sum: f64 = match self.layout {
                    Layout::NT => a.row(i).iter().zip(b.row(j)).map(|(x, y)| x * y).sum(),
                    Layout::NN => (0..k).map(|k| a.row(i)[k] * b.row(k)[j]).sum(),
                    Layout::TN => (0..k).map(|k| a.row(k)[i] * b.row(k)[j]).sum(),
                };
                *element = self.scale * sum + inputs.get(2).map_or(0.0, |addend| addend.row(i)[j]);
            }
        });
        vec![out]
    }

    /// The sums of the parts into which a long k may be split, as the rule of `variants.rs` says.
    fn scratch(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let rows_and_columns = |tensor: TensorType| [tensor.shape.rows.max(), tensor.shape.columns];
        let sizes = sizes(self.layout, rows_and_columns(inputs[0]), rows_and_columns(inputs[1]));
        match variants::parts_of_k(self.layout, sizes) {
            1 => Vec::new(),
            parts => vec![TensorType::f32(Rows::Fixed(parts * sizes[0]), sizes[1])],
        }
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        launch::launch(self, call, At::default())
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        sizes(self.layout, inputs[0], inputs[1]).iter().map(|&n| n as u64).product::<u64>() * 2
    }
}

impl Differentiate for Matmul {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        self.vjp_of(vjp, [0, 1])?;
        if let (Some(d), 3) = (vjp.d_outputs[0], vjp.inputs.len())
            && vjp.wants(2)
        {
            vjp.give(2, d);
        }
        Ok(())
    }
}
