//! `scale_columns`: every column times its own factor: `y[t, c] = x[t, c] factor[c]`. DoRA's magnitude over its norm, on a layer's output.
//!
//! | input | shape | |
//! |---|---|---|
//! | x | `[rows, columns]` f32 | |
//! | factor | `[1, columns]` f32 | |
//!
//! **Gradient.** `d_x[t, c] = d_y[t, c] factor[c]`: the op itself. `d_factor[c] = sum_t d_y[t, c] x[t, c]`: [`ColumnDots`].

use super::{Example, OpEntry, expect, spread};
use crate::graph::{Bind, Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Rows, ShapeError, TensorType, Vjp};
use crate::kernel::Kernel;
use crate::kernel_params;

/// See the [module](self).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScaleColumns;

/// `out[c] = sum_t a[t, c] b[t, c]`, for two matrices of one shape: `[1, columns]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ColumnDots;

impl Op for ScaleColumns {
    fn name(&self) -> &'static str {
        "scale_columns"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("scale_columns", inputs, 2)?;
        expect::dtype("scale_columns", "x", inputs[0], DType::F32)?;
        expect::same("scale_columns", "factor", inputs[1], TensorType::f32(Rows::Fixed(1), inputs[0].shape.columns))?;
        Ok(vec![inputs[0]])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let (x, factor) = (inputs[0], inputs[1]);
        let mut y = Matrix::zeros([x.rows, x.columns]);
        for t in 0..x.rows {
            for c in 0..x.columns {
                y.row_mut(t)[c] = x.row(t)[c] * factor.data[c];
            }
        }
        vec![y]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let y = &call.outputs[0];
        vec![Dispatch {
            kernel: &SCALE,
            constants: vec![],
            params: Params { rows: y.rows as u32, columns: y.columns() as u32 }.bytes(),
            bindings: vec![Bind::Input(0), Bind::Input(1), Bind::Output(0)],
            workgroups: spread(y.rows),
            work: 1.0,
        }]
    }
}

impl Differentiate for ScaleColumns {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let Some(d_y) = vjp.d_outputs[0] else { return Ok(()) };
        if vjp.wants(0) {
            let name = vjp.d_name(0);
            let d_x = vjp.graph.apply_one(ScaleColumns, &[d_y, vjp.inputs[1]], name)?;
            vjp.give(0, d_x);
        }
        if vjp.wants(1) {
            let name = vjp.d_name(1);
            let d_factor = vjp.graph.apply_one(ColumnDots, &[d_y, vjp.inputs[0]], name)?;
            vjp.give(1, d_factor);
        }
        Ok(())
    }
}

impl Op for ColumnDots {
    fn name(&self) -> &'static str {
        "column_dots"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("column_dots", inputs, 2)?;
        expect::dtype("column_dots", "a", inputs[0], DType::F32)?;
        expect::same("column_dots", "b", inputs[1], inputs[0])?;
        Ok(vec![TensorType::f32(Rows::Fixed(1), inputs[0].shape.columns)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it is a gradient itself, and gradients are not differentiated again")
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let (a, b) = (inputs[0], inputs[1]);
        let mut out = Matrix::zeros([1, a.columns]);
        for t in 0..a.rows {
            for c in 0..a.columns {
                out.data[c] += a.row(t)[c] * b.row(t)[c];
            }
        }
        vec![out]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let a = &call.inputs[0];
        vec![Dispatch {
            kernel: &DOTS,
            constants: vec![],
            params: Params { rows: a.rows as u32, columns: a.columns() as u32 }.bytes(),
            bindings: vec![Bind::Input(0), Bind::Input(1), Bind::Output(0)],
            workgroups: spread(a.columns().div_ceil(64)),
            work: 1.0,
        }]
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        2 * (inputs[0][0] * inputs[0][1]) as u64
    }
}

kernel_params!(Params { rows: u32, columns: u32 });

/// One workgroup a row.
static SCALE: Kernel = Kernel::checked("scale_columns", Params::FIELDS);

/// One workgroup for 64 columns.
static DOTS: Kernel = Kernel::checked("column_dots", Params::FIELDS);

const SIZES: [[usize; 2]; 5] = [[1, 1], [3, 5], [130, 65], [7, 576], [2, 64]];

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "scale_columns",
        kernels: vec![&SCALE],
        examples: |random| {
            let example = |[rows, columns]: [usize; 2]| {
                let inputs =
                    [rows, 1].map(|rows| (TensorType::f32(Rows::Fixed(rows), columns), random.matrix([rows, columns], 3.0)));
                Example::new(ScaleColumns, inputs.into())
            };
            SIZES.map(example).into()
        },
        tolerance: |_| 1e-6,
    }
}

pub(super) fn dots_entry() -> OpEntry {
    OpEntry {
        name: "column_dots",
        kernels: vec![&DOTS],
        examples: |random| {
            let example = |size: [usize; 2]| {
                let inputs = [size; 2].map(|size| (TensorType::f32(Rows::Fixed(size[0]), size[1]), random.matrix(size, 2.0)));
                Example::new(ColumnDots, inputs.into())
            };
            SIZES.map(example).into()
        },
        // 1e-6 * sqrt(rows), as of a product: rounding grows with the length of the sums.
        tolerance: |example| 1e-6 * (example.inputs[0].0.shape.rows.max() as f64).sqrt(),
    }
}
