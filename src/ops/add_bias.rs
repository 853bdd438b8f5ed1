//! `add_bias`: a row vector added to every row: `out[t, c] = x[t, c] + bias[c]`.
//!
//! | input | shape |
//! |---|---|
//! | x | `[rows, columns]` f32 |
//! | bias | `[1, columns]` f32 |
//!
//! **Gradient.** `d_x = d_out`: the same value, no node. `d_bias[c] = sum_t d_out[t, c]`: [`ColumnSums`], for a bias that is trained.

use super::column_sums::ColumnSums;
use super::{Example, OpEntry, expect, spread};
use crate::graph::{Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Rows, ShapeError, TensorType, Vjp};
use crate::kernel::Kernel;
use crate::kernel_params;

/// See the [module](self).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddBias;

impl Op for AddBias {
    fn name(&self) -> &'static str {
        "add_bias"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("add_bias", inputs, 2)?;
        expect::dtype("add_bias", "x", inputs[0], DType::F32)?;
        expect::same("add_bias", "bias", inputs[1], TensorType::f32(Rows::Fixed(1), inputs[0].shape.columns))?;
        Ok(vec![inputs[0]])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let mut out = inputs[0].clone();
        for row in out.data.chunks_mut(out.columns) {
            row.iter_mut().zip(&inputs[1].data).for_each(|(x, bias)| *x += bias);
        }
        vec![out]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let out = &call.outputs[0];
        vec![Dispatch::only(
            &KERNEL,
            call,
            Params { rows: out.rows as u32, columns: out.columns() as u32 }.bytes(),
            spread(out.rows),
        )]
    }
}

impl Differentiate for AddBias {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let Some(d_out) = vjp.d_outputs[0] else { return Ok(()) };
        if vjp.wants(0) {
            vjp.give(0, d_out);
        }
        if vjp.wants(1) {
            let name = vjp.d_name(1);
            let d_bias = vjp.graph.apply_one(ColumnSums, &[d_out], name)?;
            vjp.give(1, d_bias);
        }
        Ok(())
    }
}

kernel_params!(Params { rows: u32, columns: u32 });

/// One workgroup a row.
pub static KERNEL: Kernel = Kernel::plain("add_bias", Params::FIELDS);

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "add_bias",
        kernels: vec![&KERNEL],
        examples: |random| {
            let example = |[rows, columns]: [usize; 2]| {
                let inputs =
                    [rows, 1].map(|rows| (TensorType::f32(Rows::Fixed(rows), columns), random.matrix([rows, columns], 3.0)));
                Example::new(AddBias, inputs.into())
            };
            [[1, 1], [3, 5], [130, 65], [7, 576]].map(example).into()
        },
        tolerance: |_| 1e-6,
    }
}
