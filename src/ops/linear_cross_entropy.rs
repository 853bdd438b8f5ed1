//! `linear_cross_entropy`: the output layer and the loss in one, without logits for the whole sequence.
//!
//! `logits = cap(scale h W^T)`; `nll[t] = logsumexp(logits[t]) - logits[t, target[t]]` in nats; `loss = weight * sum_t nll[t]`
//!
//! `cap(x)` is `x`, or with a soft cap `c` (Gemma 2) `c tanh(x / c)`; `scale` is 1, or 1 / `logits_scaling` in Granite.
//!
//! | input | shape | |
//! |---|---|---|
//! | h | `[supervised, hidden]` f32 | hidden rows that predict a supervised token, and no others |
//! | W | `[vocabulary, hidden]` in any format of weights ([`DType::is_weight`]) | output matrix; f32 where it is trained |
//! | target | `[supervised, 1]` u32 | the token that follows |
//! | weight | `[1, 1]` f32 | 1 / supervised tokens of the whole optimizer step |
//! | R | `[own, hidden]` f32 | only with `own_rows`: rows of some tokens, in the place of W's or behind them |
//! | chosen | `[own, 1]` u32 | which tokens these are, strictly increasing; among them all that W has no row for |
//!
//! | output | shape |
//! |---|---|
//! | loss | `[1, 1]` |
//! | nll | `[supervised, 1]` |
//! | d_h | `[supervised, hidden]`, only `with_gradient` |
//! | d_W | `[vocabulary, hidden]`, only `with_gradient` where W is trained |
//! | d_R | `[own, hidden]`, only `with_gradient` and `own_rows` |
//!
//! **Gradient.** `d_logits[t, v] = weight * (softmax(logits[t])[v] - [v = target[t]])`; with `G = d_logits * cap'` and
//! `cap' = 1 - (logits / c)^2`, or 1 without a cap, `d_h = scale G W` and `d_W = scale G^T h`, of rows of their own likewise with their columns
//! of G. They are made in the same pass, while a chunk of logits is at hand: the op's own gradient
//! rule only passes them on. So the op has to be the root of [`crate::autograd::backward`], where the gradient of the loss is 1.
//!
//! **Rows of their own.** W stays as it is, in its format. The logits `h R^T` are put into their columns of the chunk; before the product with
//! W their gradients are taken out again, and zeros left, so that W's own rows of these tokens, if there are any, have no part in it.
//!
//! Rows are taken in chunks of [`CHUNK_ROWS`], which bounds the logits that exist at one time. A W that is split over several bindings
//! gives ranges of the vocabulary, joined in the chunk's logits. The sums of `d_h` run over the whole vocabulary: on GPUs in parts side by side,
//! since a chunk has few tiles.

use super::matmul::{At, Matmul};
use super::row_values::{self, FOURS, FOURS_WIDE};
use super::{Example, OpEntry, Random, expect, softcap, spread};
use crate::graph::{
    Bind, Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Operand, Rows, ShapeError, TensorType, Vjp,
};
use crate::kernel::{Kernel, Layout, Needs};
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
    /// Also make `d_W`, if there is a gradient at all.
    pub trains_matrix: bool,
    /// Where some tokens have rows of their own: how many tokens there are in all.
    pub own_rows: Option<usize>,
}

impl LinearCrossEntropy {
    /// Of the products as they are.
    pub fn new(with_gradient: bool) -> Self {
        Self { with_gradient, scale: 1.0, softcap: None, trains_matrix: false, own_rows: None }
    }
}

impl Op for LinearCrossEntropy {
    fn name(&self) -> &'static str {
        "linear_cross_entropy"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        const OP: &str = "linear_cross_entropy";
        expect::count(OP, inputs, if self.own_rows.is_some() { 6 } else { 4 })?;
        softcap::check(OP, self.softcap)?;
        let [hidden, weights, target, weight] = [inputs[0], inputs[1], inputs[2], inputs[3]];
        expect::dtype(OP, "hidden", hidden, DType::F32)?;
        expect::weight(OP, "output matrix", weights)?;
        expect::columns(OP, "output matrix", weights, hidden.shape.columns)?;
        expect::same(OP, "target", target, TensorType::u32(hidden.shape.rows, 1))?;
        expect::same(OP, "weight", weight, TensorType::f32(Rows::Fixed(1), 1))?;
        let mut outputs = vec![TensorType::f32(Rows::Fixed(1), 1), TensorType::f32(hidden.shape.rows, 1)];
        if let Some(tokens) = self.own_rows {
            let (own, chosen, of_matrix) = (inputs[4], inputs[5], weights.shape.rows.max());
            expect::same(OP, "rows of their own", own, TensorType::f32(own.shape.rows, hidden.shape.columns))?;
            expect::same(OP, "tokens with rows of their own", chosen, TensorType::u32(own.shape.rows, 1))?;
            if !(of_matrix..=of_matrix + own.shape.rows.max()).contains(&tokens) {
                let expected = format!("the {of_matrix} of the matrix and at most those with rows of their own behind them");
                return Err(ShapeError::new(OP, "number of tokens", tokens, expected));
            }
        }
        if self.with_gradient {
            outputs.push(hidden);
            if self.trains_matrix {
                expect::dtype(OP, "trained output matrix", weights, DType::F32)?;
                outputs.push(weights);
            }
            outputs.extend(inputs.get(4));
        }
        Ok(outputs)
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let (hidden, weights, target, weight) = (inputs[0], inputs[1], inputs[2], inputs[3]);
        let tokens = self.own_rows.unwrap_or(weights.rows);
        let mut own = vec![None; tokens];
        if let Some(chosen) = inputs.get(5) {
            (0..chosen.rows).for_each(|k| own[chosen.index(k, 0)] = Some(k));
        }
        let row = |v: usize| own[v].map_or_else(|| weights.row(v), |k| inputs[4].row(k));
        let mut nll = Matrix::zeros(outputs[1]);
        let mut d_hidden = Matrix::zeros([hidden.rows, hidden.columns]);
        let mut d_weights = Matrix::zeros([weights.rows, if self.trains_matrix { hidden.columns } else { 0 }]);
        let mut d_own = inputs.get(4).map(|own| Matrix::zeros([own.rows, own.columns]));
        for t in 0..hidden.rows {
            let product = |v: usize| -> f64 { hidden.row(t).iter().zip(row(v)).map(|(h, w)| h * w).sum() };
            let logits: Vec<f64> = (0..tokens).map(|v| softcap::capped(self.scale * product(v), self.softcap)).collect();
            let max = logits.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
            nll.data[t] = max + sum.ln() - logits[target.index(t, 0)];
            for v in 0..tokens {
                let is_target = f64::from(v == target.index(t, 0));
                let d_logit = weight.data[0] * ((logits[v] - max).exp() / sum - is_target);
                let d_product = self.scale * d_logit * softcap::slope(logits[v], self.softcap);
                let add = |to: &mut [f64], what: &[f64]| to.iter_mut().zip(what).for_each(|(to, x)| *to += d_product * x);
                add(d_hidden.row_mut(t), row(v));
                match (own[v], &mut d_own) {
                    (Some(k), Some(d_own)) => add(d_own.row_mut(k), hidden.row(t)),
                    _ => add(d_weights.row_mut(v), hidden.row(t)),
                }
            }
        }
        let loss = Matrix::new([1, 1], vec![weight.data[0] * nll.data.iter().sum::<f64>()]);
        let mut all = vec![loss, nll];
        if self.with_gradient {
            all.push(d_hidden);
            all.extend(self.trains_matrix.then_some(d_weights));
            all.extend(d_own);
        }
        all
    }

    fn scratch(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let rows = CHUNK_ROWS.min(inputs[0].shape.rows.max());
        let chunk = |columns| TensorType::f32(Rows::Fixed(rows), columns);
        let logits = chunk(self.stride(inputs[1].shape.rows.max()));
        let mut scratch = vec![logits];
        scratch.extend(inputs.get(4).map(|own| chunk(own.shape.rows.max())));
        // Parts of the sums of the products, of which one runs at a time.
        let product = |layout, a, b| Matmul { layout, scale: self.scale }.scratch(&[a, b]);
        let hidden = chunk(inputs[0].shape.columns);
        let of_matrix = [product(Layout::NT, hidden, inputs[1]), product(Layout::NN, logits, inputs[1])];
        let of_own =
            inputs.get(4).map(|&own| [product(Layout::NT, hidden, own), product(Layout::NN, chunk(own.shape.rows.max()), own)]);
        scratch.extend(of_matrix.into_iter().chain(of_own.into_iter().flatten()).flatten().max_by_key(TensorType::max_bytes));
        scratch
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let (hidden, weights, own) = (&call.inputs[0], &call.inputs[1], call.inputs.get(4));
        let (vocabulary, columns) = (self.own_rows.unwrap_or(weights.rows), hidden.columns());
        let stride = self.stride(weights.rows);
        let most = hidden.tensor.shape.rows.max();
        let chunk_rows = Rows::Fixed(CHUNK_ROWS.min(most));
        let mut dispatches = Vec::new();
        for first in (0..most).step_by(CHUNK_ROWS) {
            let rows = hidden.rows.saturating_sub(first).min(CHUNK_ROWS.min(most));
            let of_chunk = |columns| Operand { tensor: TensorType::f32(chunk_rows, columns), rows, part_starts: vec![0] };
            let (logits, chunk) = (of_chunk(stride), of_chunk(columns));
            let own_logits = own.map(|own| of_chunk(own.rows));
            // A product of these operands, each with where it is bound.
            let product = |layout, operands: [(&Operand, Bind); 2], (out, out_bind): (&Operand, Bind), at: At| {
                let [(a, a_bind), (b, b_bind)] = operands;
                let (inputs, outputs) = ([a.clone(), b.clone()], [out.clone()]);
                let inner = Call { inputs: &inputs, outputs: &outputs, device: call.device, tuning: call.tuning };
                let rebound = move |bind| match (bind, b_bind) {
                    (Bind::Input(0), _) => a_bind,
                    (Bind::InputPart(1, part), Bind::Input(number)) => Bind::InputPart(number, part),
                    (Bind::Output(0), _) => out_bind,
                    (Bind::Scratch(0), _) => Bind::Scratch(1 + own.is_some() as usize),
                    (other, _) => other,
                };
                let dispatches = Matmul { layout, scale: self.scale }.launch_at(&inner, at);
                // Nothing is added for a chunk that has no rows in this run.
                let idle = rows == 0 && at.adds;
                dispatches.into_iter().map(move |dispatch| {
                    let workgroups = if idle { [0; 3] } else { dispatch.workgroups };
                    Dispatch { workgroups, ..dispatch.rebind(rebound) }
                })
            };
            let (of_hidden, of_weights, of_own) = (Bind::Input(0), Bind::Input(1), Bind::Input(4));
            let from_hidden = At { a_row: first, ..At::default() };
            let swap = |own: &Operand, takes_out: bool| Dispatch {
                kernel: &SWAP,
                constants: vec![],
                params: SwapParams {
                    rows: rows as u32,
                    stride: stride as u32,
                    own: own.columns() as u32,
                    takes_out: takes_out as u32,
                }
                .bytes(),
                bindings: vec![Bind::Input(5), Bind::Scratch(1), Bind::Scratch(0)],
                workgroups: spread(rows),
                work: 0.0,
            };
            // scale h[first..] W^T: the logits before the cap
            let operands = [(&chunk, of_hidden), (weights, of_weights)];
            dispatches.extend(product(Layout::NT, operands, (&logits, Bind::Scratch(0)), from_hidden));
            if let (Some(own), Some(own_logits)) = (own, &own_logits) {
                let operands = [(&chunk, of_hidden), (own, of_own)];
                dispatches.extend(product(Layout::NT, operands, (own_logits, Bind::Scratch(1)), from_hidden));
                dispatches.push(swap(own_logits, false));
            }
            // nll and d_logits cap', in place of the logits
            let params = RowParams {
                rows: rows as u32,
                columns: vocabulary as u32,
                stride: stride as u32,
                first: first as u32,
                with_gradient: self.with_gradient as u32,
            };
            dispatches.push(Dispatch {
                kernel: row_values::chosen(&ROWS, call.device, stride.is_multiple_of(4), true),
                constants: self.softcap.map(|cap| softcap::constant(Some(cap))).into_iter().collect(),
                params: params.bytes(),
                bindings: vec![Bind::Input(2), Bind::Input(3), Bind::Scratch(0), Bind::Output(1)],
                workgroups: spread(rows),
                work: 0.0,
            });
            if !self.with_gradient {
                continue;
            }
            let d_hidden = Operand { rows, ..call.outputs[2].clone() };
            let to_hidden = At { out_row: first, ..At::default() };
            // Sums over the rows of all chunks.
            let summed = At { b_row: first, adds: first > 0, ..At::default() };
            dispatches.extend(own_logits.as_ref().map(|own_logits| swap(own_logits, true)));
            // d_h[first..] = scale (d_logits cap') W
            let operands = [(&logits, Bind::Scratch(0)), (weights, of_weights)];
            dispatches.extend(product(Layout::NN, operands, (&d_hidden, Bind::Output(2)), to_hidden));
            // d_W += scale (d_logits cap')^T h[first..]
            if self.trains_matrix {
                let operands = [(&logits, Bind::Scratch(0)), (&chunk, of_hidden)];
                dispatches.extend(product(Layout::TN, operands, (&call.outputs[3], Bind::Output(3)), summed));
            }
            // The same for rows of their own, whose part of d_h is added.
            if let (Some(own), Some(own_logits), Some(d_own)) =
                (own, &own_logits, call.outputs.get(3 + self.trains_matrix as usize))
            {
                let operands = [(own_logits, Bind::Scratch(1)), (own, of_own)];
                let adding = At { adds: true, ..to_hidden };
                dispatches.extend(product(Layout::NN, operands, (&d_hidden, Bind::Output(2)), adding));
                let operands = [(own_logits, Bind::Scratch(1)), (&chunk, of_hidden)];
                let output = Bind::Output(3 + self.trains_matrix as usize);
                dispatches.extend(product(Layout::TN, operands, (d_own, output), summed));
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
        let of = |rows: usize| 2 * (inputs[0][0] * inputs[0][1]) as u64 * rows as u64;
        let (product, own) = (of(inputs[1][0]), inputs.get(4).map_or(0, |own| of(own[0])));
        match self.with_gradient {
            true => (2 + self.trains_matrix as u64) * product + 3 * own,
            false => product + own,
        }
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
        let outputs = vjp.outputs.clone();
        vjp.give(0, outputs[2]);
        if self.trains_matrix {
            vjp.give(1, outputs[3]);
        }
        if self.own_rows.is_some() {
            vjp.give(4, outputs[3 + self.trains_matrix as usize]);
        }
        Ok(())
    }
}

impl LinearCrossEntropy {
    /// Columns that a row of a chunk takes, for a matrix of so many rows: with rows of their own whole vectors of four, so that the products
    /// with W are as fast as without.
    fn stride(&self, rows: usize) -> usize {
        self.own_rows.map_or(rows, |tokens| tokens.next_multiple_of(4))
    }
}

kernel_params!(RowParams { rows: u32, columns: u32, stride: u32, first: u32, with_gradient: u32 });
kernel_params!(SwapParams { rows: u32, stride: u32, own: u32, takes_out: u32 });
kernel_params!(SumParams { count: u32 });

/// One workgroup a row of the chunk, whose logits are read one by one, or where a row is a multiple of four by fours.
static ROWS: [Kernel; 3] = [
    rows("linear_cross_entropy", &[("logits", "logits_ones")], Needs::NONE),
    rows("linear_cross_entropy_fours", &[BY_FOURS, FOURS], Needs::NONE),
    rows("linear_cross_entropy_wide", &[BY_FOURS, FOURS_WIDE], Needs::WIDE_LOADS),
];

const BY_FOURS: (&str, &str) = ("logits", "logits_fours");

const fn rows(name: &'static str, slots: &'static [(&'static str, &'static str)], needs: Needs) -> Kernel {
    Kernel { shader: "linear_cross_entropy", slots, needs, ..Kernel::checked(name, RowParams::FIELDS) }
}

/// One workgroup a row of the chunk.
static SWAP: Kernel = Kernel::checked("linear_cross_entropy_swap", SwapParams::FIELDS);

static SUM: Kernel = Kernel::checked("linear_cross_entropy_sum", SumParams::FIELDS);

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "linear_cross_entropy",
        kernels: ROWS.iter().chain([&SWAP, &SUM]).collect(),
        examples: |random| {
            let plain = |with_gradient| LinearCrossEntropy::new(with_gradient);
            let bent = |with_gradient| LinearCrossEntropy { scale: 0.75, softcap: Some(2.0), ..plain(with_gradient) };
            let sizes = [(1, 4, 2), (3, 8, 37), (5, 36, 130), (131, 16, 67), (300, 8, 5)];
            let mut examples = sizes.map(|size| example(random, size, plain(size.0 % 2 == 1))).to_vec();
            examples.extend([(7, 12, 67), (130, 8, 9), (129, 4, 33)].map(|size| example(random, size, bent(size.0 % 2 == 1))));
            let trained = |op| LinearCrossEntropy { trains_matrix: true, ..op };
            examples.extend([(3, 8, 37), (131, 16, 68), (300, 8, 5)].map(|size| example(random, size, trained(bent(true)))));
            // W and rows of their own for tokens of it, and behind it.
            for size in [(131, 16, 67), (3, 8, 36)] {
                examples.push(with_own_rows(random, size, 5, 3, trained(bent(true))));
            }
            // Rows of their own for tokens of W, for some behind them, and in both executions.
            for (size, own, behind, with_gradient) in
                [((3, 8, 37), 1, 0, true), ((131, 16, 68), 5, 3, true), ((7, 12, 67), 2, 2, false), ((290, 4, 33), 4, 1, true)]
            {
                examples.push(with_own_rows(random, size, own, behind, bent(with_gradient)));
            }
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

/// `own` tokens with rows of their own, of which `behind` are none of the matrix's.
fn with_own_rows(
    random: &mut Random,
    (rows, columns, vocabulary): (usize, usize, usize),
    own: usize,
    behind: usize,
    op: LinearCrossEntropy,
) -> Example {
    let tokens = vocabulary + behind;
    let mut example = example(random, (rows, columns, vocabulary), op);
    let first = random.below(vocabulary - own);
    let chosen: Vec<f64> = (first..first + own - behind).chain(vocabulary..tokens).map(|id| id as f64).collect();
    // Also as targets.
    example.inputs[2].1.data.iter_mut().zip(&chosen).for_each(|(target, id)| *target = *id);
    example.inputs.push((TensorType::f32(Rows::Fixed(own), columns), random.matrix([own, columns], 1.0)));
    example.inputs.push((TensorType::u32(Rows::Fixed(own), 1), Matrix::new([own, 1], chosen)));
    Example::new(LinearCrossEntropy { own_rows: Some(tokens), ..op }, example.inputs)
}
