//! `expert_shares`: how a router spreads its tokens: by expert, what it gives them all together, and how many of them are sent there.
//!
//! `probabilities[e] = before[e] + sum_t softmax(logits[t])[e]`, over all experts; `sent[e]`: before, and how often e is in `numbers`.
//!
//! | value | shape | |
//! |---|---|---|
//! | logits | `[T, E]` f32 | |
//! | numbers | `[T, K]` u32 | as [`super::route`] gives them |
//! | before | `[1, E]` f32 and `[1, E]` u32, or neither | the outputs for another layer, so that a chain of these adds up all layers |
//! | probabilities | `[1, E]` f32 | |
//! | sent | `[1, E]` u32 | |
//!
//! **Gradient.** Of `probabilities` by the logits: with d their gradient and p the softmax of a row, `d_logit_e = p_e (d_e - sum_i p_i d_i)`, of
//! each row with the same d: [`ExpertSharesBackward`]. By what was before it is d. A number of rows has none.

use super::{Example, OpEntry, Random, expect, spread};
use crate::graph::{Bind, Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Rows, ShapeError, TensorType, Vjp};
use crate::kernel::Kernel;
use crate::kernel_params;

const OP: &str = "expert_shares";

/// Inputs `logits, numbers` and optionally the two before; outputs `probabilities, sent`.
#[derive(Clone, Copy, Debug)]
pub struct ExpertShares;

/// Inputs `d_probabilities, logits`; output `d_logits`.
#[derive(Clone, Copy, Debug)]
pub struct ExpertSharesBackward;

/// Rows of a workgroup of the first pass.
const ROWS: usize = 64;

/// The softmax of a row.
fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let values: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f64 = values.iter().sum();
    values.into_iter().map(|value| value / sum).collect()
}

/// A number for each expert.
fn of_experts(logits: TensorType, dtype: DType) -> TensorType {
    TensorType::new(Rows::Fixed(1), logits.shape.columns, dtype)
}

impl Op for ExpertShares {
    fn name(&self) -> &'static str {
        "expert_shares"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        if inputs.len() != 4 {
            expect::count(OP, inputs, 2)?;
        }
        let (logits, numbers) = (inputs[0], inputs[1]);
        expect::dtype(OP, "logits", logits, DType::F32)?;
        expect::dtype(OP, "numbers", numbers, DType::U32)?;
        expect::rows(OP, "numbers", numbers, logits.shape.rows)?;
        let outputs = vec![of_experts(logits, DType::F32), of_experts(logits, DType::U32)];
        for (before, output) in inputs[2..].iter().zip(&outputs) {
            expect::same(OP, "what was before", *before, *output)?;
        }
        Ok(outputs)
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let (logits, numbers) = (inputs[0], inputs[1]);
        let before = |input: usize| inputs.get(2 + input).map_or_else(|| Matrix::zeros(outputs[input]), |&before| before.clone());
        let [mut probabilities, mut sent] = [before(0), before(1)];
        for t in 0..logits.rows {
            probabilities.data.iter_mut().zip(softmax(logits.row(t))).for_each(|(sum, p)| *sum += p);
            (0..numbers.columns).for_each(|j| sent.data[numbers.index(t, j)] += 1.0);
        }
        vec![probabilities, sent]
    }

    fn scratch(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let logits = inputs[0].shape;
        vec![TensorType::f32(Rows::Fixed(2 * logits.rows.max().div_ceil(ROWS).max(1)), logits.columns)]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let (rows, experts) = (call.inputs[0].rows, call.inputs[0].columns());
        let parts = rows.div_ceil(ROWS);
        let adds = call.inputs.len() == 4;
        // Where nothing was before, the bindings are any other inputs of these types: the kernel does not read them.
        let before = if adds { [Bind::Input(2), Bind::Input(3)] } else { [Bind::Input(0), Bind::Input(1)] };
        let params = Params { rows: rows as u32, experts: experts as u32, chosen: call.inputs[1].columns() as u32 };
        let of_sum = SumParams { parts: parts as u32, experts: experts as u32, adds: u32::from(adds) };
        vec![
            Dispatch {
                bindings: vec![Bind::Input(0), Bind::Input(1), Bind::Scratch(0)],
                ..Dispatch::only(&SHARES, call, params.bytes(), spread(parts))
            },
            Dispatch {
                bindings: [&[Bind::Scratch(0)], &before[..], &[Bind::Output(0), Bind::Output(1)]].concat(),
                work: 0.0,
                ..Dispatch::only(&SUM, call, of_sum.bytes(), spread(experts.div_ceil(64)))
            },
        ]
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        (inputs[0][0] * inputs[0][1] * 3) as u64
    }
}

impl Differentiate for ExpertShares {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        vjp.only_first_output(OP)?;
        let Some(d_probabilities) = vjp.d_outputs[0] else { return Ok(()) };
        if vjp.wants(0) {
            let name = vjp.d_name(0);
            let d_logits = vjp.graph.apply_one(ExpertSharesBackward, &[d_probabilities, vjp.inputs[0]], name)?;
            vjp.give(0, d_logits);
        }
        if vjp.inputs.len() == 4 && vjp.wants(2) {
            vjp.give(2, d_probabilities);
        }
        Ok(())
    }
}

impl Op for ExpertSharesBackward {
    fn name(&self) -> &'static str {
        "expert_shares_backward"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        const OP: &str = "expert_shares_backward";
        expect::count(OP, inputs, 2)?;
        let [d_probabilities, logits] = [inputs[0], inputs[1]];
        expect::dtype(OP, "logits", logits, DType::F32)?;
        expect::same(OP, "d_probabilities", d_probabilities, of_experts(logits, DType::F32))?;
        Ok(vec![logits])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it is a gradient itself, and gradients are not differentiated again")
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let [d, logits] = inputs else { unreachable!("checked by infer") };
        let mut d_logits = Matrix::zeros(outputs[0]);
        for t in 0..logits.rows {
            let p = softmax(logits.row(t));
            let dot: f64 = p.iter().zip(&d.data).map(|(p, d)| p * d).sum();
            d_logits.row_mut(t).iter_mut().zip(p.iter().zip(&d.data)).for_each(|(out, (p, d))| *out = p * (d - dot));
        }
        vec![d_logits]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let (rows, experts) = (call.inputs[1].rows, call.inputs[1].columns());
        let params = BackwardParams { rows: rows as u32, experts: experts as u32 }.bytes();
        vec![Dispatch::only(&BACKWARD, call, params, spread(rows.div_ceil(64)))]
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        (inputs[1][0] * inputs[1][1] * 5) as u64
    }
}

kernel_params!(Params { rows: u32, experts: u32, chosen: u32 });
kernel_params!(SumParams { parts: u32, experts: u32, adds: u32 });
kernel_params!(BackwardParams { rows: u32, experts: u32 });

/// One workgroup for [`ROWS`] rows.
static SHARES: Kernel = Kernel::checked("expert_shares", Params::FIELDS);

/// One invocation an expert.
static SUM: Kernel = Kernel::checked("expert_shares_sum", SumParams::FIELDS);

/// One invocation a row.
static BACKWARD: Kernel = Kernel::checked("expert_shares_backward", BackwardParams::FIELDS);

/// Rows, experts, chosen ones: one row, tails, several parts, and more experts than a workgroup has invocations.
const SIZES: [[usize; 3]; 5] = [[1, 1, 1], [3, 4, 4], [70, 8, 2], [200, 60, 4], [65, 130, 8]];

fn logits(random: &mut Random, [rows, experts, _]: [usize; 3]) -> (TensorType, Matrix) {
    (TensorType::f32(Rows::Fixed(rows), experts), random.matrix([rows, experts], 3.0))
}

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: OP,
        kernels: vec![&SHARES, &SUM],
        examples: |random| {
            let mut examples = Vec::new();
            for size in SIZES {
                for adds in [false, true] {
                    let [rows, experts, chosen] = size;
                    let numbers = (0..rows * chosen).map(|_| random.below(experts) as f64).collect();
                    let mut inputs = vec![logits(random, size)];
                    inputs.push((TensorType::u32(Rows::Fixed(rows), chosen), Matrix::new([rows, chosen], numbers)));
                    if adds {
                        let sent = (0..experts).map(|_| random.below(1000) as f64).collect();
                        inputs.push((TensorType::f32(Rows::Fixed(1), experts), random.matrix([1, experts], 9.0)));
                        inputs.push((TensorType::u32(Rows::Fixed(1), experts), Matrix::new([1, experts], sent)));
                    }
                    examples.push(Example::new(ExpertShares, inputs));
                }
            }
            examples
        },
        // 1e-6 * sqrt(rows), as of a product: rounding grows with the length of the sums.
        tolerance: |example| 1e-6 * (example.inputs[0].0.shape.rows.max() as f64).sqrt(),
    }
}

pub(super) fn backward_entry() -> OpEntry {
    OpEntry {
        name: "expert_shares_backward",
        kernels: vec![&BACKWARD],
        examples: |random| {
            let example = |size: [usize; 3]| {
                let d = (TensorType::f32(Rows::Fixed(1), size[1]), random.matrix([1, size[1]], 1.0));
                Example::new(ExpertSharesBackward, vec![d, logits(random, size)])
            };
            SIZES.map(example).into()
        },
        // As a norm's gradient: each is a difference.
        tolerance: |_| 1e-5,
    }
}
