//! `column_sums`: `out[c] = sum_t x[t, c]`, `[1, columns]` of `[rows, columns]`, f32: the gradient of what is [added to every
//! row](super::add_bias).

use super::{Example, OpEntry, expect, spread};
use crate::graph::{Call, DType, Derivative, Dispatch, Matrix, Op, Rows, ShapeError, TensorType};
use crate::kernel::Kernel;
use crate::kernel_params;

/// See the [module](self).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ColumnSums;

impl Op for ColumnSums {
    fn name(&self) -> &'static str {
        "column_sums"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("column_sums", inputs, 1)?;
        expect::dtype("column_sums", "x", inputs[0], DType::F32)?;
        Ok(vec![TensorType::f32(Rows::Fixed(1), inputs[0].shape.columns)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it is a gradient itself, and gradients are not differentiated again")
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let mut out = Matrix::zeros([1, inputs[0].columns]);
        for row in inputs[0].data.chunks(inputs[0].columns) {
            out.data.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        vec![out]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let x = &call.inputs[0];
        let params = Params { rows: x.rows as u32, columns: x.columns() as u32 }.bytes();
        vec![Dispatch::only(&KERNEL, call, params, spread(x.columns().div_ceil(COLUMNS)))]
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        (inputs[0][0] * inputs[0][1]) as u64
    }
}

kernel_params!(Params { rows: u32, columns: u32 });

/// Columns of a workgroup, as the shader has it.
const COLUMNS: usize = 8;

/// One workgroup for 8 columns.
pub static KERNEL: Kernel = Kernel::plain("column_sums", Params::FIELDS);

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "column_sums",
        kernels: vec![&KERNEL],
        examples: |random| {
            let example = |size: [usize; 2]| {
                let x = (TensorType::f32(Rows::Fixed(size[0]), size[1]), random.matrix(size, 2.0));
                Example::new(ColumnSums, vec![x])
            };
            [[1, 1], [3, 5], [130, 65], [7, 576], [515, 9]].map(example).into()
        },
        // 1e-6 * sqrt(rows), as of a product: rounding grows with the length of the sums.
        tolerance: |example| 1e-6 * (example.inputs[0].0.shape.rows.max() as f64).sqrt(),
    }
}
