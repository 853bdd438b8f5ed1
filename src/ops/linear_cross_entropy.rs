//! `linear_cross_entropy`: the output layer and the loss in one, without logits for the whole sequence.
//!
//! `logits = cap(scale h W^T)`; `nll[t] = logsumexp(logits[t]) - logits[t, target[t]]` in nats; `loss = weight * sum_t nll[t]`
//!
//! `cap(x)` is `x`, or with a soft cap `c` (Gemma 2) `c tanh(x / c)`; `scale` is 1, or 1 / `logits_scaling` in Granite.
//!
//! | input | shape | |
//! |---|---|---|
//! | h | `[supervised, hidden]` f32 | hidden rows that predict a supervised token, and no others |
//! | W | `[vocabulary, hidden]` in any format of weights ([`DType::is_weight`]) | output matrix, frozen |
//! | target | `[supervised, 1]` u32 | the token that follows |
//! | weight | `[1, 1]` f32 | 1 / supervised tokens of the whole optimizer step |
//!
//! | output | shape |
//! |---|---|
//! | loss | `[1, 1]` |
//! | nll | `[supervised, 1]` |
//! | d_h | `[supervised, hidden]`, only `with_gradient` |
//!
//! **Gradient.** `d_logits[t, v] = weight * (softmax(logits[t])[v] - [v = target[t]])` and `d_h = scale (d_logits * cap') W`, with
//! `cap' = 1 - (logits / c)^2`, or 1 without a cap. It is made in the same pass, while a chunk of logits is at hand: the op's own gradient
//! rule only passes `d_h` on. So the op has to be the root of [`crate::autograd::backward`], where the gradient of the loss is 1.
//!
//! Rows are taken in chunks of [`CHUNK_ROWS`], which bounds the logits that exist at one time. A W that is split over several bindings
//! gives ranges of the vocabulary, joined in the chunk's logits. The sums of `d_h` run over the whole vocabulary, in parts side by side where
//! a chunk has few tiles: on GPUs.

use super::matmul::Matmul;
use super::{Example, OpEntry, Random, expect, softcap, spread};
use crate::graph::{
    Bind, Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Operand, Rows, ShapeError, TensorType, Vjp,
};
use crate::kernel::{Kernel, Layout};
use crate::kernel_params;

/// Rows of logits that exist at one time.
pub const CHUNK_ROWS: usize = 128;

/// See the [module](self).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LinearCrossEntropy {
    /// Also make `d_h`: training; evaluation does without.
    pub with_gradient: bool,
    /// What the products are multiplied by.
    pub scale: f64,
    /// The bound that logits are bent towards, above 0.
    pub softcap: Option<f64>,
}

impl LinearCrossEntropy {
    /// Of the products as they are.
    pub fn new(with_gradient: bool) -> Self {
        Self { with_gradient, scale: 1.0, softcap: None }
    }
}

impl Op for LinearCrossEntropy {
    fn name(&self) -> &'static str {
        "linear_cross_entropy"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        const OP: &str = "linear_cross_entropy";
        expect::count(OP, inputs, 4)?;
        softcap::check(OP, self.softcap)?;
        let [hidden, weights, target, weight] = [inputs[0], inputs[1], inputs[2], inputs[3]];
        expect::dtype(OP, "hidden", hidden, DType::F32)?;
        expect::weight(OP, "output matrix", weights)?;
        expect::columns(OP, "output matrix", weights, hidden.shape.columns)?;
        expect::same(OP, "target", target, TensorType::u32(hidden.shape.rows, 1))?;
        expect::same(OP, "weight", weight, TensorType::f32(Rows::Fixed(1), 1))?;
        let mut outputs = vec![TensorType::f32(Rows::Fixed(1), 1), TensorType::f32(hidden.shape.rows, 1)];
        if self.with_gradient {
            outputs.push(hidden);
        }
        Ok(outputs)
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let [hidden, weights, target, weight] = inputs else { unreachable!("checked by infer") };
        let mut nll = Matrix::zeros(outputs[1]);
        let mut d_hidden = Matrix::zeros([hidden.rows, hidden.columns]);
        for t in 0..hidden.rows {
            let product = |v: usize| -> f64 { hidden.row(t).iter().zip(weights.row(v)).map(|(h, w)| h * w).sum() };
            let logits: Vec<f64> = (0..weights.rows).map(|v| softcap::capped(self.scale * product(v), self.softcap)).collect();
            let max = logits.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
            nll.data[t] = max + sum.ln() - logits[target.index(t, 0)];
            for v in 0..weights.rows {
                let is_target = f64::from(v == target.index(t, 0));
                let d_logit = weight.data[0] * ((logits[v] - max).exp() / sum - is_target);
                let d_product = self.scale * d_logit * softcap::slope(logits[v], self.softcap);
                for c in 0..hidden.columns {
                    d_hidden.row_mut(t)[c] += d_product * weights.row(v)[c];
                }
            }
        }
        let loss = Matrix::new([1, 1], vec![weight.data[0] * nll.data.iter().sum::<f64>()]);
        let mut all = vec![loss, nll];
        if self.with_gradient {
            all.push(d_hidden);
        }
        all
    }

    fn scratch(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let rows = CHUNK_ROWS.min(inputs[0].shape.rows.max());
        let logits = TensorType::f32(Rows::Fixed(rows), inputs[1].shape.rows.max());
        let product = Matmul { layout: Layout::NN, scale: self.scale };
        [logits].into_iter().chain(if self.with_gradient { product.scratch(&[logits, inputs[1]]) } else { Vec::new() }).collect()
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let (hidden, weights) = (&call.inputs[0], &call.inputs[1]);
        let (vocabulary, columns) = (weights.rows, hidden.columns());
        let most = hidden.tensor.shape.rows.max();
        let mut dispatches = Vec::new();
        for first in (0..most).step_by(CHUNK_ROWS) {
            let rows = hidden.rows.saturating_sub(first).min(CHUNK_ROWS.min(most));
            let logits =
                Operand { tensor: TensorType::f32(Rows::Fixed(CHUNK_ROWS.min(most)), vocabulary), rows, part_starts: vec![0] };
            // scale h[first..] W^T: the logits before the cap
            let product = Matmul { layout: Layout::NT, scale: self.scale };
            let chunk = TensorType::f32(Rows::Fixed(CHUNK_ROWS.min(most)), columns);
            let operands = [Operand { tensor: chunk, rows, ..hidden.clone() }, weights.clone()];
            let outputs = [logits.clone()];
            let inner = Call { inputs: &operands, outputs: &outputs, device: call.device, tuning: call.tuning };
            dispatches.extend(product.launch_rows(&inner, first, 0).into_iter().map(|dispatch| {
                dispatch.rebind(|bind| match bind {
                    Bind::Output(0) => Bind::Scratch(0),
                    other => other,
                })
            }));
            // nll and d_logits cap', in place of the logits
            let params = RowParams {
                rows: rows as u32,
                columns: vocabulary as u32,
                first: first as u32,
                with_gradient: self.with_gradient as u32,
            };
            dispatches.push(Dispatch {
                kernel: &ROWS,
                constants: self.softcap.map(|cap| softcap::constant(Some(cap))).into_iter().collect(),
                params: params.bytes(),
                bindings: vec![Bind::Input(2), Bind::Input(3), Bind::Scratch(0), Bind::Output(1)],
                workgroups: spread(rows),
                work: 0.0,
            });
            // d_h[first..] = scale (d_logits cap') W
            if self.with_gradient {
                let product = Matmul { layout: Layout::NN, scale: self.scale };
                let operands = [logits, weights.clone()];
                let outputs = [Operand { rows, ..call.outputs[2].clone() }];
                debug_assert_eq!(outputs[0].columns(), columns);
                let inner = Call { inputs: &operands, outputs: &outputs, device: call.device, tuning: call.tuning };
                dispatches.extend(product.launch_rows(&inner, 0, first).into_iter().map(|dispatch| {
                    dispatch.rebind(|bind| match bind {
                        Bind::Input(0) => Bind::Scratch(0),
                        Bind::Output(0) => Bind::Output(2),
                        Bind::Scratch(0) => Bind::Scratch(1),
                        other => other,
                    })
                }));
            }
        }
        let params = SumParams { count: hidden.rows as u32 };
        dispatches.push(Dispatch {
            kernel: &SUM,
            constants: vec![],
            params: params.bytes(),
            bindings: vec![Bind::Input(3), Bind::Output(1), Bind::Output(0)],
            workgroups: [1, 1, 1],
            work: 0.0,
        });
        dispatches
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        let product = 2 * (inputs[0][0] * inputs[0][1]) as u64 * inputs[1][0] as u64;
        if self.with_gradient { 2 * product } else { product }
    }

    /// For every chunk of rows, W once a product. The logits are written, turned into their gradient in place, and read again.
    fn traffic(&self, inputs: &[Operand], outputs: &[Operand]) -> u64 {
        let (hidden, weights) = (&inputs[0], &inputs[1]);
        let (products, passes) = if self.with_gradient { (2, 4) } else { (1, 2) };
        let chunks = hidden.rows.div_ceil(CHUNK_ROWS) as u64;
        let logits = (hidden.rows * weights.rows * size_of::<f32>()) as u64;
        chunks * products * weights.bytes() + passes * logits + hidden.bytes() + outputs.iter().map(Operand::bytes).sum::<u64>()
    }
}

impl Differentiate for LinearCrossEntropy {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        if !vjp.is_loss || !self.with_gradient {
            let found = if self.with_gradient { "somewhere inside the graph" } else { "without gradient" };
            return Err(ShapeError::new("linear_cross_entropy", "the loss", found, "the root of backward, with_gradient"));
        }
        if vjp.d_outputs.iter().any(Option::is_some) {
            return Err(ShapeError::new(
                "linear_cross_entropy",
                "an output of the loss",
                "used by another node",
                "the root of backward alone",
            ));
        }
        let d_hidden = vjp.outputs[2];
        vjp.give(0, d_hidden);
        Ok(())
    }
}

kernel_params!(RowParams { rows: u32, columns: u32, first: u32, with_gradient: u32 });
kernel_params!(SumParams { count: u32 });

static ROWS: Kernel = Kernel { unchecked: false, ..Kernel::plain("linear_cross_entropy", RowParams::FIELDS) };

static SUM: Kernel = Kernel { unchecked: false, ..Kernel::plain("linear_cross_entropy_sum", SumParams::FIELDS) };

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "linear_cross_entropy",
        kernels: vec![&ROWS, &SUM],
        examples: |random| {
            let plain = |with_gradient| LinearCrossEntropy::new(with_gradient);
            let bent = |with_gradient| LinearCrossEntropy { scale: 0.75, softcap: Some(2.0), ..plain(with_gradient) };
            let sizes = [(1, 4, 2), (3, 8, 37), (5, 36, 130), (131, 16, 67), (300, 8, 5)];
            let mut examples = sizes.map(|size| example(random, size, plain(size.0 % 2 == 1))).to_vec();
            examples.extend([(7, 12, 67), (130, 8, 9), (129, 4, 33)].map(|size| example(random, size, bent(size.0 % 2 == 1))));
            examples
        },
        tolerance: |_| 1e-5,
    }
}

fn example(random: &mut Random, (rows, columns, vocabulary): (usize, usize, usize), op: LinearCrossEntropy) -> Example {
    let targets = Matrix::new([rows, 1], (0..rows).map(|_| random.below(vocabulary) as f64).collect());
    let inputs = vec![
        (TensorType::f32(Rows::Fixed(rows), columns), random.matrix([rows, columns], 2.0)),
        (TensorType::f32(Rows::Fixed(vocabulary), columns), random.matrix([vocabulary, columns], 1.0)),
        (TensorType::u32(Rows::Fixed(rows), 1), targets),
        (TensorType::f32(Rows::Fixed(1), 1), Matrix::new([1, 1], vec![0.125])),
    ];
    Example::new(op, inputs)
}
