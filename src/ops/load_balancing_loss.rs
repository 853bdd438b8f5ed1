//! `load_balancing_loss`: how unevenly routers spread their tokens over the experts (Fedus et al. 2021, arXiv 2101.03961, equations 4 to 6, as
//! transformers' `load_balancing_loss_func` has it): `E sum_e f_e p_e`, where f is the share of the rows that are sent to an expert and p the
//! mean of what the routers' softmax gives it. It is K where all experts are alike, and larger where they are not.
//!
//! | value | shape | |
//! |---|---|---|
//! | probabilities | `[1, E]` f32 | sum over the rows of all layers, as [`super::expert_shares`] gives it |
//! | sent | `[1, E]` u32 | likewise: K times the number of rows in all |
//! | loss | `[1, 1]` f32 | |
//!
//! With R the number of rows, that is the sum of `sent` divided by K, `f_e = sent_e / R` and `p_e = probabilities_e / R`.
//!
//! **Gradient.** `d_probabilities_e = d E sent_e / R^2`: [`LoadBalancingLossBackward`]. Where a row is sent has none.

use super::{Example, OpEntry, Random, expect};
use crate::graph::{Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Rows, ShapeError, TensorType, Vjp};
use crate::kernel::Kernel;
use crate::kernel_params;

const OP: &str = "load_balancing_loss";

/// Inputs `probabilities, sent`; output `loss`.
#[derive(Clone, Copy, Debug)]
pub struct LoadBalancingLoss {
    /// K: to how many experts each row is sent.
    pub chosen: usize,
}

/// Inputs `d_loss, sent`; output `d_probabilities`.
#[derive(Clone, Copy, Debug)]
pub struct LoadBalancingLossBackward {
    /// As [`LoadBalancingLoss::chosen`].
    pub chosen: usize,
}

/// Rows, which are each sent to so many experts.
fn rows(sent: &Matrix, chosen: usize) -> f64 {
    sent.data.iter().sum::<f64>() / chosen as f64
}

fn check(op: &'static str, sent: TensorType, chosen: usize) -> Result<(), ShapeError> {
    expect::same(op, "sent", sent, TensorType::u32(Rows::Fixed(1), sent.shape.columns))?;
    match (1..=sent.shape.columns).contains(&chosen) {
        true => Ok(()),
        false => Err(ShapeError::new(op, "experts of a row", chosen, format!("from 1 to {}", sent.shape.columns))),
    }
}

impl Op for LoadBalancingLoss {
    fn name(&self) -> &'static str {
        "load_balancing_loss"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count(OP, inputs, 2)?;
        check(OP, inputs[1], self.chosen)?;
        expect::same(OP, "probabilities", inputs[0], TensorType::f32(Rows::Fixed(1), inputs[1].shape.columns))?;
        Ok(vec![TensorType::f32(Rows::Fixed(1), 1)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let (probabilities, sent) = (inputs[0], inputs[1]);
        let rows = rows(sent, self.chosen);
        let sum: f64 = probabilities.data.iter().zip(&sent.data).map(|(p, sent)| p / rows * (sent / rows)).sum();
        vec![Matrix::new([1, 1], vec![sent.columns as f64 * sum])]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        vec![Dispatch::only(&LOSS, call, params(call.inputs[1].columns(), self.chosen), [1, 1, 1])]
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        4 * inputs[0][1] as u64
    }
}

impl Differentiate for LoadBalancingLoss {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let (Some(d_loss), true) = (vjp.d_outputs[0], vjp.wants(0)) else { return Ok(()) };
        let (name, op) = (vjp.d_name(0), LoadBalancingLossBackward { chosen: self.chosen });
        let d_probabilities = vjp.graph.apply_one(op, &[d_loss, vjp.inputs[1]], name)?;
        vjp.give(0, d_probabilities);
        Ok(())
    }
}

impl Op for LoadBalancingLossBackward {
    fn name(&self) -> &'static str {
        "load_balancing_loss_backward"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        const OP: &str = "load_balancing_loss_backward";
        expect::count(OP, inputs, 2)?;
        check(OP, inputs[1], self.chosen)?;
        expect::same(OP, "d_loss", inputs[0], TensorType::f32(Rows::Fixed(1), 1))?;
        Ok(vec![TensorType::new(Rows::Fixed(1), inputs[1].shape.columns, DType::F32)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it is a gradient itself, and gradients are not differentiated again")
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let (d_loss, sent) = (inputs[0].data[0], inputs[1]);
        let rows = rows(sent, self.chosen);
        let data = sent.data.iter().map(|sent| d_loss * outputs[0][1] as f64 * (sent / rows) / rows).collect();
        vec![Matrix::new(outputs[0], data)]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        vec![Dispatch::only(&BACKWARD, call, params(call.inputs[1].columns(), self.chosen), [1, 1, 1])]
    }
}

kernel_params!(Params { experts: u32, chosen: u32 });

fn params(experts: usize, chosen: usize) -> Vec<u8> {
    Params { experts: experts as u32, chosen: chosen as u32 }.bytes()
}

/// One workgroup.
static LOSS: Kernel = Kernel::checked("load_balancing_loss", Params::FIELDS);

/// One workgroup.
static BACKWARD: Kernel = Kernel::checked("load_balancing_loss_backward", Params::FIELDS);

/// Rows, experts, chosen ones.
const SIZES: [[usize; 3]; 4] = [[1, 1, 1], [7, 4, 4], [900, 8, 2], [300, 130, 8]];

/// Where these rows are sent: any experts, each as often as it comes.
fn sent(random: &mut Random, [rows, experts, chosen]: [usize; 3]) -> (TensorType, Matrix) {
    let mut sent = Matrix::zeros([1, experts]);
    (0..rows * chosen).for_each(|_| sent.data[random.below(experts)] += 1.0);
    (TensorType::u32(Rows::Fixed(1), experts), sent)
}

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: OP,
        kernels: vec![&LOSS],
        examples: |random| {
            let example = |size: [usize; 3]| {
                let mut probabilities = random.matrix([1, size[1]], size[0] as f64 / size[1] as f64);
                probabilities.data.iter_mut().for_each(|p| *p = p.abs());
                let probabilities = (TensorType::f32(Rows::Fixed(1), size[1]), probabilities);
                Example::new(LoadBalancingLoss { chosen: size[2] }, vec![probabilities, sent(random, size)])
            };
            SIZES.map(example).into()
        },
        // 1e-6 * sqrt(experts), as of a product.
        tolerance: |example| 1e-6 * (example.inputs[0].0.shape.columns as f64).sqrt(),
    }
}

pub(super) fn backward_entry() -> OpEntry {
    OpEntry {
        name: "load_balancing_loss_backward",
        kernels: vec![&BACKWARD],
        examples: |random| {
            let example = |size: [usize; 3]| {
                let d_loss = (TensorType::f32(Rows::Fixed(1), 1), random.matrix([1, 1], 1.0));
                Example::new(LoadBalancingLossBackward { chosen: size[2] }, vec![d_loss, sent(random, size)])
            };
            SIZES.map(example).into()
        },
        tolerance: |_| 1e-6,
    }
}
