//! `gate_rows`: rows times a share of each: the expert that every token is sent to, behind its gate.
//!
//! `y[t] = sigmoid(gate[t]) x[t]`
//!
//! | input | shape |
//! |---|---|
//! | x | `[T, columns]` f32 |
//! | gate | `[T, 1]` f32 |
//!
//! **Gradient.** With `s = sigmoid(gate)`: `d_x = s d_y`, the same op, and `d_gate = s (1 - s) (d_y . x)`: [`GateRowsBackward`].

use super::{Example, OpEntry, Random, expect, spread};
use crate::graph::{Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Rows, ShapeError, TensorType, Vjp};
use crate::kernel::Kernel;
use crate::kernel_params;

/// Inputs `x, gate`; output `y`.
#[derive(Clone, Copy, Debug)]
pub struct GateRows;

/// Inputs `d_y, x, gate`; output `d_gate`.
#[derive(Clone, Copy, Debug)]
pub struct GateRowsBackward;

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Op for GateRows {
    fn name(&self) -> &'static str {
        "gate_rows"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("gate_rows", inputs, 2)?;
        let [x, gate] = [inputs[0], inputs[1]];
        expect::dtype("gate_rows", "x", x, DType::F32)?;
        expect::same("gate_rows", "gate", gate, TensorType::f32(x.shape.rows, 1))?;
        Ok(vec![x])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let [x, gate] = inputs else { unreachable!("checked by infer") };
        let mut y = Matrix::zeros(outputs[0]);
        for t in 0..x.rows {
            let share = sigmoid(gate.data[t]);
            y.row_mut(t).iter_mut().zip(x.row(t)).for_each(|(y, x)| *y = share * x);
        }
        vec![y]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let y = &call.outputs[0];
        vec![Dispatch::only(&GATE, call, params(y.rows, y.columns()), spread(y.rows))]
    }
}

impl Differentiate for GateRows {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let Some(d_y) = vjp.d_outputs[0] else { return Ok(()) };
        let [x, gate] = [vjp.inputs[0], vjp.inputs[1]];
        if vjp.wants(0) {
            let name = vjp.d_name(0);
            let d_x = vjp.graph.apply_one(GateRows, &[d_y, gate], name)?;
            vjp.give(0, d_x);
        }
        if vjp.wants(1) {
            let name = vjp.d_name(1);
            let d_gate = vjp.graph.apply_one(GateRowsBackward, &[d_y, x, gate], name)?;
            vjp.give(1, d_gate);
        }
        Ok(())
    }
}

impl Op for GateRowsBackward {
    fn name(&self) -> &'static str {
        "gate_rows_backward"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        const OP: &str = "gate_rows_backward";
        expect::count(OP, inputs, 3)?;
        let [d_y, x, gate] = [inputs[0], inputs[1], inputs[2]];
        expect::dtype(OP, "x", x, DType::F32)?;
        expect::same(OP, "d_y", d_y, x)?;
        expect::same(OP, "gate", gate, TensorType::f32(x.shape.rows, 1))?;
        Ok(vec![gate])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it is a gradient itself, and gradients are not differentiated again")
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let [d_y, x, gate] = inputs else { unreachable!("checked by infer") };
        let mut d_gate = Matrix::zeros(outputs[0]);
        for t in 0..x.rows {
            let share = sigmoid(gate.data[t]);
            let dot: f64 = d_y.row(t).iter().zip(x.row(t)).map(|(d, x)| d * x).sum();
            d_gate.data[t] = share * (1.0 - share) * dot;
        }
        vec![d_gate]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let x = &call.inputs[1];
        vec![Dispatch::only(&BACKWARD, call, params(x.rows, x.columns()), spread(x.rows))]
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        2 * (inputs[0][0] * inputs[0][1]) as u64
    }
}

kernel_params!(Params { rows: u32, columns: u32 });

fn params(rows: usize, columns: usize) -> Vec<u8> {
    Params { rows: rows as u32, columns: columns as u32 }.bytes()
}

/// One workgroup a row.
static GATE: Kernel = Kernel::checked("gate_rows", Params::FIELDS);

/// One workgroup a row.
static BACKWARD: Kernel = Kernel::checked("gate_rows_backward", Params::FIELDS);

fn values(random: &mut Random, size: [usize; 2]) -> (TensorType, Matrix) {
    (TensorType::f32(Rows::Fixed(size[0]), size[1]), random.matrix(size, 3.0))
}

const SIZES: [[usize; 2]; 4] = [[1, 1], [9, 7], [70, 65], [33, 576]];

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "gate_rows",
        kernels: vec![&GATE],
        examples: |random| {
            SIZES.map(|size| Example::new(GateRows, vec![values(random, size), values(random, [size[0], 1])])).into()
        },
        tolerance: |_| 1e-6,
    }
}

pub(super) fn backward_entry() -> OpEntry {
    OpEntry {
        name: "gate_rows_backward",
        kernels: vec![&BACKWARD],
        examples: |random| {
            let example = |size: [usize; 2]| {
                Example::new(GateRowsBackward, vec![values(random, size), values(random, size), values(random, [size[0], 1])])
            };
            SIZES.map(example).into()
        },
        // 1e-6 * sqrt(columns), as of a product.
        tolerance: |example| 1e-6 * (example.inputs[0].0.shape.columns as f64).sqrt(),
    }
}
