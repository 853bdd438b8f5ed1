//! `rms_norm`: root-mean-square normalisation of each row (Zhang & Sennrich 2019, arXiv 1910.07467, without re-centring).
//!
//! `y[t, c] = x[t, c] * rstd[t] * w[c]` with `rstd[t] = (mean_c x[t, c]^2 + eps)^(-1/2)`
//!
//! | input | shape | |
//! |---|---|---|
//! | x | `[rows, columns]` f32 | |
//! | weight | `[1, columns]` f32 | frozen |
//!
//! **Gradient.** With `g = d_y * w` and `x^ = x * rstd`, the derivative of `rstd` by `x[c]` is `-rstd^3 x[c] / columns`, so
//! `d_x[c] = rstd * (g[c] - x^[c] * mean_j(g[j] x^[j]))`. `rstd` is computed again from x, which costs less than storing it.
//! [`RmsNormBackward`] takes an optional third gradient to add on the way out: the one that bypasses the norm on the residual path.

use super::{Bind, Call, Dispatch, Example, Matrix, Op, OpEntry, Random, Vjp, expect, spread};
use crate::gpu::Facts;
use crate::gpu::kernel::{Kernel, Needs};
use crate::graph::{DType, Rows, ShapeError, TensorType};
use crate::kernel_params;

/// Forward.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    pub eps: f64,
}

/// Inputs `x, weight, d_y` and optionally `addend`; output `d_x (+ addend)`.
#[derive(Clone, Copy, Debug)]
pub struct RmsNormBackward {
    pub eps: f64,
}

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("rms_norm", inputs, 2)?;
        check_x_and_weight("rms_norm", inputs)?;
        Ok(vec![inputs[0]])
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let (Some(d_y), true) = (vjp.d_outputs[0], vjp.wants(0)) else { return Ok(()) };
        let mut inputs = vec![vjp.inputs[0], vjp.inputs[1], d_y];
        inputs.extend(vjp.take_partial(0));
        let name = vjp.d_name(0);
        let d_x = vjp.graph.apply_one(RmsNormBackward { eps: self.eps }, &inputs, name)?;
        vjp.give(0, d_x);
        Ok(())
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let [x, weight] = inputs else { unreachable!("checked by infer") };
        let mut y = Matrix::zeros([x.rows, x.columns]);
        for t in 0..x.rows {
            let rstd = rstd(x.row(t), self.eps);
            for c in 0..x.columns {
                y.row_mut(t)[c] = x.row(t)[c] * rstd * weight.data[c];
            }
        }
        vec![y]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let rows = call.outputs[0].rows;
        let params = Params { rows: rows as u32, columns: call.outputs[0].columns() as u32, eps: self.eps as f32, has_addend: 0 };
        vec![Dispatch {
            kernel: chosen(&FORWARD, call.device),
            constants: vec![],
            params: params.bytes(),
            bindings: vec![Bind::Input(0), Bind::Input(1), Bind::Output(0)],
            workgroups: spread(rows),
            work: 1.0,
        }]
    }
}

impl Op for RmsNormBackward {
    fn name(&self) -> &'static str {
        "rms_norm_backward"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        if inputs.len() != 4 {
            expect::count("rms_norm_backward", inputs, 3)?;
        }
        check_x_and_weight("rms_norm_backward", inputs)?;
        expect::same("rms_norm_backward", "d_y", inputs[2], inputs[0])?;
        if let Some(&addend) = inputs.get(3) {
            expect::same("rms_norm_backward", "addend", addend, inputs[0])?;
        }
        Ok(vec![inputs[0]])
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let (x, weight, d_y) = (inputs[0], inputs[1], inputs[2]);
        let mut d_x = Matrix::zeros([x.rows, x.columns]);
        for t in 0..x.rows {
            let rstd = rstd(x.row(t), self.eps);
            let g: Vec<f64> = (0..x.columns).map(|c| d_y.row(t)[c] * weight.data[c]).collect();
            let mean = (0..x.columns).map(|c| g[c] * x.row(t)[c] * rstd).sum::<f64>() / x.columns as f64;
            for c in 0..x.columns {
                let bypass = inputs.get(3).map_or(0.0, |addend| addend.row(t)[c]);
                d_x.row_mut(t)[c] = rstd * (g[c] - x.row(t)[c] * rstd * mean) + bypass;
            }
        }
        vec![d_x]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let rows = call.outputs[0].rows;
        let has_addend = call.inputs.len() == 4;
        let params = Params {
            rows: rows as u32,
            columns: call.outputs[0].columns() as u32,
            eps: self.eps as f32,
            has_addend: has_addend as u32,
        };
        let addend = Bind::Input(if has_addend { 3 } else { 2 });
        vec![Dispatch {
            kernel: chosen(&BACKWARD, call.device),
            constants: vec![],
            params: params.bytes(),
            bindings: vec![Bind::Input(0), Bind::Input(1), Bind::Input(2), addend, Bind::Output(0)],
            workgroups: spread(rows),
            work: 1.0,
        }]
    }
}

fn check_x_and_weight(op: &'static str, inputs: &[TensorType]) -> Result<(), ShapeError> {
    expect::dtype(op, "x", inputs[0], DType::F32)?;
    expect::same(op, "weight", inputs[1], TensorType::f32(Rows::Fixed(1), inputs[0].shape.columns))
}

fn rstd(row: &[f64], eps: f64) -> f64 {
    (row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64 + eps).sqrt().recip()
}

kernel_params!(Params { rows: u32, columns: u32, eps: f32, has_addend: u32 });

/// A kernel with one workgroup a row: with barriers, or with one subgroup of 8.
macro_rules! kernels {
    ($name:literal) => {
        [
            Kernel {
                name: $name,
                shader: $name,
                slots: &[("row_sum", "row_sum")],
                constants: &[],
                params: Params::FIELDS,
                needs: Needs::NONE,
                unchecked: true,
            },
            Kernel {
                name: concat!($name, "_subgroup8"),
                shader: $name,
                slots: &[("row_sum", "row_sum_subgroup")],
                constants: &[("LANES", 8.0)],
                params: Params::FIELDS,
                needs: Needs { subgroup_size: Some(8), ..Needs::NONE },
                unchecked: true,
            },
        ]
    };
}

static FORWARD: [Kernel; 2] = kernels!("rms_norm");
static BACKWARD: [Kernel; 2] = kernels!("rms_norm_backward");

/// The one without barriers where the device is a CPU with subgroups of 8.
fn chosen(kernels: &'static [Kernel; 2], facts: &Facts) -> &'static Kernel {
    let [plain, subgroup8] = kernels;
    if facts.cpu_driver && subgroup8.needs.met_by(facts) { subgroup8 } else { plain }
}

/// The gradient of a single column is a difference that all but cancels where eps is small; no f32 kernel could be held to a bound there.
fn example_eps(columns: usize) -> f64 {
    if columns == 1 { 0.5 } else { 1e-5 }
}

fn examples_of(random: &mut Random, make: impl Fn(&mut Random, usize, usize) -> Example) -> Vec<Example> {
    [(1, 1), (3, 7), (5, 64), (17, 65), (9, 576), (131, 130)].map(|(rows, columns)| make(random, rows, columns)).into()
}

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "rms_norm",
        kernels: FORWARD.iter().collect(),
        examples: |random| {
            examples_of(random, |random, rows, columns| {
                let x = TensorType::f32(Rows::Fixed(rows), columns);
                let weight = TensorType::f32(Rows::Fixed(1), columns);
                let inputs = vec![(x, random.matrix([rows, columns], 2.0)), (weight, random.matrix([1, columns], 1.0))];
                Example::new(RmsNorm { eps: example_eps(columns) }, inputs)
            })
        },
        tolerance: |_| 1e-6,
    }
}

pub(super) fn backward_entry() -> OpEntry {
    OpEntry {
        name: "rms_norm_backward",
        kernels: BACKWARD.iter().collect(),
        examples: |random| {
            examples_of(random, |random, rows, columns| {
                let x = TensorType::f32(Rows::Fixed(rows), columns);
                let weight = TensorType::f32(Rows::Fixed(1), columns);
                let mut inputs = vec![(x, random.matrix([rows, columns], 2.0)), (weight, random.matrix([1, columns], 1.0))];
                inputs.push((x, random.matrix([rows, columns], 1.0)));
                if rows % 2 == 1 {
                    inputs.push((x, random.matrix([rows, columns], 1.0)));
                }
                Example::new(RmsNormBackward { eps: example_eps(columns) }, inputs)
            })
        },
        tolerance: |_| 1e-5,
    }
}
