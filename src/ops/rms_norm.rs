//! `rms_norm`: root-mean-square normalisation (Zhang & Sennrich 2019, arXiv 1910.07467, without re-centring) of each row, or of each
//! of several groups of columns of a row, as of each head.
//!
//! A row of x is `groups` vectors of `D = columns / groups` elements, each normalised by itself:
//!
//! `y[c] = x[c] rstd w[c]` with `rstd = (mean_c x[c]^2 + eps)^(-1/2)`, `c < D`
//!
//! | input | shape | |
//! |---|---|---|
//! | x | `[rows, groups * D]` f32 | |
//! | weight | `[1, D]` f32 | `w` is this, or 1 + this, or, without this input, 1: [`NormWeight`] |
//!
//! **Gradient.** With `g = d_y * w` and `x^ = x * rstd`, the derivative of `rstd` by `x[c]` is `-rstd^3 x[c] / D`, so
//! `d_x[c] = rstd * (g[c] - x^[c] * mean_j(g[j] x^[j]))`. `rstd` is computed again from x, which costs less than storing it.
//! `d_weight[c]` is the sum over all vectors of `d_y[c] x^[c]`; it has a rule where a row is one vector.
//! [`RmsNormBackward`] takes an optional further gradient to add on the way out: the one that bypasses the norm on the residual path.

use super::row_values::{FOURS, FOURS_WIDE, ONES, SUM, SUM_IN_SUBGROUP, chosen};
use super::scale_columns::ColumnDots;
use super::{Example, OpEntry, Random, expect, spread};
use crate::graph::{Bind, Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Rows, ShapeError, TensorType, Vjp};
use crate::kernel::{Kernel, Needs};
use crate::kernel_params;

/// Forward. Inputs `x`, and `weight` where there is one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RmsNorm {
    pub eps: f64,
    /// Vectors in a row that are normalised each by itself: 1, or the number of heads.
    pub groups: usize,
    pub weight: NormWeight,
}

/// What a normalised element is multiplied by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NormWeight {
    /// 1: the op has no weight.
    None,
    /// The weight, as in Llama.
    Plain,
    /// 1 + the weight, added in f32, as in Gemma.
    OnePlus,
}

/// Inputs `x, weight, d_y` (without `weight` where there is none) and optionally `addend`; output `d_x (+ addend)`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RmsNormBackward(pub RmsNorm);

impl RmsNorm {
    /// Of whole rows, with a plain weight: Llama's.
    pub fn new(eps: f64) -> Self {
        Self { eps, groups: 1, weight: NormWeight::Plain }
    }

    /// Inputs before `d_y`.
    fn own_inputs(&self) -> usize {
        if self.weight == NormWeight::None { 1 } else { 2 }
    }

    /// Checks itself, x and the weight.
    fn check(&self, op: &'static str, inputs: &[TensorType]) -> Result<(), ShapeError> {
        let x = inputs[0];
        expect::dtype(op, "x", x, DType::F32)?;
        if self.groups == 0 || !x.shape.columns.is_multiple_of(self.groups) {
            return Err(ShapeError::new(op, "x", x, format!("columns in {} groups of one length", self.groups)));
        }
        match self.weight {
            NormWeight::None => Ok(()),
            _ => expect::same(op, "weight", inputs[1], TensorType::f32(Rows::Fixed(1), x.shape.columns / self.groups)),
        }
    }

    /// What element `c` of a vector is multiplied by.
    fn factor(&self, inputs: &[&Matrix], c: usize) -> f64 {
        match self.weight {
            NormWeight::None => 1.0,
            NormWeight::Plain => inputs[1].data[c],
            NormWeight::OnePlus => 1.0 + inputs[1].data[c],
        }
    }

    fn rstd(&self, vector: &[f64]) -> f64 {
        (vector.iter().map(|x| x * x).sum::<f64>() / vector.len() as f64 + self.eps).sqrt().recip()
    }

    /// One dispatch, of one workgroup a vector, on the inputs in `tail` after x and weight.
    fn dispatch(&self, kernels: &'static [Kernel; 3], call: &Call, tail: &[usize], has_addend: bool) -> Vec<Dispatch> {
        let out = &call.outputs[0];
        let (vectors, columns) = (out.rows * self.groups, out.columns() / self.groups);
        let params = Params {
            rows: vectors as u32,
            columns: columns as u32,
            eps: self.eps as f32,
            has_weight: (self.weight != NormWeight::None) as u32,
            weight_offset: if self.weight == NormWeight::OnePlus { 1.0 } else { 0.0 },
            has_addend: has_addend as u32,
        };
        // A binding that the kernel does not read has x in its place.
        let weight = self.own_inputs() - 1;
        let inputs = [0, weight].into_iter().chain(tail.iter().copied()).map(Bind::Input);
        vec![Dispatch {
            kernel: chosen(kernels, call.device, columns.is_multiple_of(4), columns >= 4 * LANES),
            constants: vec![],
            params: params.bytes(),
            bindings: inputs.chain([Bind::Output(0)]).collect(),
            workgroups: spread(vectors),
            work: 1.0,
        }]
    }
}

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("rms_norm", inputs, self.own_inputs())?;
        self.check("rms_norm", inputs)?;
        Ok(vec![inputs[0]])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let x = inputs[0];
        let mut y = Matrix::zeros([x.rows, x.columns]);
        let length = x.columns / self.groups;
        for (x, y) in x.data.chunks(length).zip(y.data.chunks_mut(length)) {
            let rstd = self.rstd(x);
            for c in 0..length {
                y[c] = x[c] * rstd * self.factor(inputs, c);
            }
        }
        vec![y]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        self.dispatch(&FORWARD, call, &[], false)
    }
}

impl Differentiate for RmsNorm {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let Some(d_y) = vjp.d_outputs[0] else { return Ok(()) };
        if self.weight != NormWeight::None && self.groups == 1 && vjp.wants(1) {
            let name = vjp.d_name(1);
            let plain = RmsNorm { weight: NormWeight::None, ..*self };
            let normed = vjp.graph.apply_one(plain, &[vjp.inputs[0]], format!("{name}.normed"))?;
            let d_weight = vjp.graph.apply_one(ColumnDots, &[d_y, normed], name)?;
            vjp.give(1, d_weight);
        }
        if !vjp.wants(0) {
            return Ok(());
        }
        let mut inputs = vjp.inputs.clone();
        inputs.push(d_y);
        inputs.extend(vjp.take_partial(0));
        let name = vjp.d_name(0);
        let d_x = vjp.graph.apply_one(RmsNormBackward(*self), &inputs, name)?;
        vjp.give(0, d_x);
        Ok(())
    }
}

impl Op for RmsNormBackward {
    fn name(&self) -> &'static str {
        "rms_norm_backward"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        let own = self.0.own_inputs();
        if inputs.len() != own + 2 {
            expect::count("rms_norm_backward", inputs, own + 1)?;
        }
        self.0.check("rms_norm_backward", inputs)?;
        expect::same("rms_norm_backward", "d_y", inputs[own], inputs[0])?;
        if let Some(&addend) = inputs.get(own + 1) {
            expect::same("rms_norm_backward", "addend", addend, inputs[0])?;
        }
        Ok(vec![inputs[0]])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it is a gradient itself, and gradients are not differentiated again")
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let norm = &self.0;
        let (x, d_y, addend) = (inputs[0], inputs[norm.own_inputs()], inputs.get(norm.own_inputs() + 1));
        let mut d_x = Matrix::zeros([x.rows, x.columns]);
        let length = x.columns / norm.groups;
        for start in (0..x.data.len()).step_by(length) {
            let (x, d_y) = (&x.data[start..start + length], &d_y.data[start..start + length]);
            let rstd = norm.rstd(x);
            let g: Vec<f64> = (0..length).map(|c| d_y[c] * norm.factor(inputs, c)).collect();
            let mean = (0..length).map(|c| g[c] * x[c] * rstd).sum::<f64>() / length as f64;
            for c in 0..length {
                let bypass = addend.map_or(0.0, |addend| addend.data[start + c]);
                d_x.data[start + c] = rstd * (g[c] - x[c] * rstd * mean) + bypass;
            }
        }
        vec![d_x]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let own = self.0.own_inputs();
        let has_addend = call.inputs.len() == own + 2;
        self.0.dispatch(&BACKWARD, call, &[own, own + has_addend as usize], has_addend)
    }
}

kernel_params!(Params { rows: u32, columns: u32, eps: f32, has_weight: u32, weight_offset: f32, has_addend: u32 });

/// Invocations a row.
const LANES: usize = 64;

/// A kernel with one workgroup a row: value by value, by fours, and by fours without barriers in one subgroup of 8.
macro_rules! kernels {
    ($name:literal) => {
        [
            kernel($name, $name, &[ONES, SUM]),
            kernel(concat!($name, "_fours"), $name, &[FOURS, SUM]),
            Kernel {
                constants: &[("LANES", 8.0)],
                needs: Needs::SUBGROUP8,
                ..kernel(concat!($name, "_subgroup8"), $name, &[FOURS_WIDE, SUM_IN_SUBGROUP])
            },
        ]
    };
}

const fn kernel(name: &'static str, shader: &'static str, slots: &'static [(&'static str, &'static str)]) -> Kernel {
    Kernel { shader, slots, ..Kernel::plain(name, Params::FIELDS) }
}

static FORWARD: [Kernel; 3] = kernels!("rms_norm");
static BACKWARD: [Kernel; 3] = kernels!("rms_norm_backward");

/// The gradient of a single column is a difference that all but cancels where eps is small; no f32 kernel could be held to a bound there.
fn example_eps(columns: usize) -> f64 {
    if columns == 1 { 0.5 } else { 1e-5 }
}

/// The norm, and its x and, where there is one, its weight.
fn examples_of(random: &mut Random, finish: impl Fn(&mut Random, RmsNorm, Vec<(TensorType, Matrix)>) -> Example) -> Vec<Example> {
    use NormWeight::{None, OnePlus, Plain};
    let whole = [(1, 1), (3, 7), (5, 64), (17, 65), (9, 576), (131, 130)].map(|(rows, columns)| (rows, columns, 1, Plain));
    let heads = [(5, 64, 4, Plain), (6, 21, 7, OnePlus), (7, 40, 1, OnePlus), (130, 512, 2, None), (4, 9, 1, None)];
    let example = |(rows, columns, groups, weight)| {
        let norm = RmsNorm { eps: example_eps(columns / groups), groups, weight };
        let mut inputs = vec![(TensorType::f32(Rows::Fixed(rows), columns), random.matrix([rows, columns], 2.0))];
        if weight != None {
            let shape = [1, columns / groups];
            inputs.push((TensorType::f32(Rows::Fixed(1), shape[1]), random.matrix(shape, 1.0)));
        }
        finish(random, norm, inputs)
    };
    whole.into_iter().chain(heads).map(example).collect()
}

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "rms_norm",
        kernels: FORWARD.iter().collect(),
        examples: |random| examples_of(random, |_, norm, inputs| Example::new(norm, inputs)),
        tolerance: |_| 1e-6,
    }
}

pub(super) fn backward_entry() -> OpEntry {
    OpEntry {
        name: "rms_norm_backward",
        kernels: BACKWARD.iter().collect(),
        examples: |random| {
            examples_of(random, |random, norm, mut inputs| {
                let (x, rows) = (inputs[0].0, inputs[0].1.rows);
                // With the gradient that bypasses the norm, and without.
                for _ in 0..1 + rows % 2 {
                    inputs.push((x, random.matrix([rows, x.shape.columns], 1.0)));
                }
                Example::new(RmsNormBackward(norm), inputs)
            })
        },
        tolerance: |_| 1e-5,
    }
}
