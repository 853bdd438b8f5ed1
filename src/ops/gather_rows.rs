//! `gather_rows`: some rows of a matrix, in order; picks the supervised rows before the output matrix is applied.
//!
//! `y[s] = x[rows[s]]`
//!
//! | input | shape | |
//! |---|---|---|
//! | x | `[T, columns]` f32 | |
//! | rows | `[S, 1]` u32 | strictly increasing, below T |
//!
//! **Gradient.** Each row is picked at most once, so `d_x[rows[s]] = d_y[s]` and `d_x` is zero elsewhere: [`ScatterRows`].

use super::{Example, OpEntry, Random, expect, spread};
use crate::graph::{
    Call, Counts, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Operand, Rows, ShapeError, TensorType, Vjp,
};
use crate::kernel::Kernel;
use crate::kernel_params;

/// Inputs `x, rows`.
#[derive(Clone, Copy, Debug)]
pub struct GatherRows;

/// Inputs `d_y [S, columns], rows`; output `d_x [T, columns]`.
#[derive(Clone, Copy, Debug)]
pub struct ScatterRows {
    /// T, which the inputs do not tell.
    pub rows: Rows,
}

impl Op for GatherRows {
    fn name(&self) -> &'static str {
        "gather_rows"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("gather_rows", inputs, 2)?;
        let [x, rows] = [inputs[0], inputs[1]];
        expect::dtype("gather_rows", "x", x, DType::F32)?;
        expect::same("gather_rows", "rows", rows, TensorType::u32(rows.shape.rows, 1))?;
        Ok(vec![TensorType::f32(rows.shape.rows, x.shape.columns)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let [x, rows] = inputs else { unreachable!("checked by infer") };
        let mut y = Matrix::zeros(outputs[0]);
        for s in 0..rows.rows {
            y.row_mut(s).copy_from_slice(x.row(rows.index(s, 0)));
        }
        vec![y]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let y = &call.outputs[0];
        let params = GatherParams { rows: y.rows as u32, columns: y.columns() as u32, x_rows: call.inputs[0].rows as u32 };
        vec![Dispatch::only(&GATHER, call, params.bytes(), spread(y.rows))]
    }

    fn flops(&self, _: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        0
    }

    /// Of x, only the rows that are picked.
    fn traffic(&self, inputs: &[Operand], outputs: &[Operand]) -> u64 {
        inputs[1].bytes() + 2 * outputs[0].bytes()
    }
}

impl Differentiate for GatherRows {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let (Some(d_y), true) = (vjp.d_outputs[0], vjp.wants(0)) else { return Ok(()) };
        let scatter = ScatterRows { rows: vjp.graph[vjp.inputs[0]].tensor.shape.rows };
        let name = vjp.d_name(0);
        let d_x = vjp.graph.apply_one(scatter, &[d_y, vjp.inputs[1]], name)?;
        vjp.give(0, d_x);
        Ok(())
    }
}

impl Op for ScatterRows {
    fn name(&self) -> &'static str {
        "scatter_rows"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("scatter_rows", inputs, 2)?;
        let [d_y, rows] = [inputs[0], inputs[1]];
        expect::dtype("scatter_rows", "d_y", d_y, DType::F32)?;
        expect::same("scatter_rows", "rows", rows, TensorType::u32(d_y.shape.rows, 1))?;
        Ok(vec![TensorType::f32(self.rows, d_y.shape.columns)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let [d_y, rows] = inputs else { unreachable!("checked by infer") };
        let mut d_x = Matrix::zeros(outputs[0]);
        for s in 0..rows.rows {
            d_x.row_mut(rows.index(s, 0)).copy_from_slice(d_y.row(s));
        }
        vec![d_x]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let d_x = &call.outputs[0];
        let params = ScatterParams { rows: d_x.rows as u32, columns: d_x.columns() as u32, chosen: call.inputs[0].rows as u32 };
        vec![Dispatch::only(&SCATTER, call, params.bytes(), spread(d_x.rows))]
    }

    fn flops(&self, _: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        0
    }
}

impl Differentiate for ScatterRows {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let (Some(d_x), true) = (vjp.d_outputs[0], vjp.wants(0)) else { return Ok(()) };
        let name = vjp.d_name(0);
        let d_y = vjp.graph.apply_one(GatherRows, &[d_x, vjp.inputs[1]], name)?;
        vjp.give(0, d_y);
        Ok(())
    }
}

kernel_params!(GatherParams { rows: u32, columns: u32, x_rows: u32 });
kernel_params!(ScatterParams { rows: u32, columns: u32, chosen: u32 });

/// One workgroup a row.
pub static GATHER: Kernel = Kernel::checked("gather_rows", GatherParams::FIELDS);

/// One workgroup a row.
pub static SCATTER: Kernel = Kernel::checked("scatter_rows", ScatterParams::FIELDS);

/// `T`, share of rows that are picked, columns.
const SIZES: [(usize, f64, usize); 5] = [(1, 1.0, 1), (9, 0.5, 7), (70, 0.2, 65), (33, 0.8, 576), (20, 1.0, 64)];

/// Strictly increasing row numbers below `rows`, at least one.
fn pick(random: &mut Random, rows: usize, share: f64) -> Matrix {
    let mut picked: Vec<f64> = (0..rows).filter(|_| random.uniform().abs() < share).map(|row| row as f64).collect();
    if picked.is_empty() {
        picked.push(random.below(rows) as f64);
    }
    Matrix::new([picked.len(), 1], picked)
}

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "gather_rows",
        kernels: vec![&GATHER],
        examples: |random| {
            let example = |(rows, share, columns)| {
                let picked = pick(random, rows, share);
                let counts = Counts { tokens: rows, supervised: picked.rows };
                let inputs = vec![
                    (TensorType::f32(Rows::Tokens(rows + 2), columns), random.matrix([rows, columns], 1.0)),
                    (TensorType::u32(Rows::Supervised(rows), 1), picked),
                ];
                Example { counts, ..Example::new(GatherRows, inputs) }
            };
            SIZES.map(example).into()
        },
        tolerance: |_| 0.0,
    }
}

pub(super) fn scatter_entry() -> OpEntry {
    OpEntry {
        name: "scatter_rows",
        kernels: vec![&SCATTER],
        examples: |random| {
            let example = |(rows, share, columns)| {
                let picked = pick(random, rows, share);
                let counts = Counts { tokens: rows, supervised: picked.rows };
                let inputs = vec![
                    (TensorType::f32(Rows::Supervised(rows), columns), random.matrix([picked.rows, columns], 1.0)),
                    (TensorType::u32(Rows::Supervised(rows), 1), picked),
                ];
                Example { counts, ..Example::new(ScatterRows { rows: Rows::Tokens(rows + 2) }, inputs) }
            };
            SIZES.map(example).into()
        },
        tolerance: |_| 0.0,
    }
}
