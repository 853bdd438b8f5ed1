//! `adamw`: one step of Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101), with the semantics of
//! PyTorch's `torch.optim.AdamW` and `torch.nn.utils.clip_grad_norm_`, over all adapter parameters at once.
//!
//! `g <- g min(1, max_grad_norm / (global_norm + 1e-6))` where `max_grad_norm > 0`
//! `m <- m + (1 - beta1) (g - m)`, `v <- beta2 v + (1 - beta2) g^2`
//! `theta <- theta (1 - learning_rate weight_decay) - learning_rate / bias_correction1 * m / (sqrt(v) / sqrt(bias_correction2) + eps)`
//!
//! | input | shape | |
//! |---|---|---|
//! | parameters | `[1, N]` f32 | updated in place: output 0 |
//! | gradients | `[1, N]` f32 | |
//! | first_moment | `[1, N]` f32 | m, updated in place: output 1 |
//! | second_moment | `[1, N]` f32 | v, updated in place: output 2 |
//! | global_norm | `[1, 1]` f32 | of the gradients, see [`super::global_norm`] |
//! | hyper | `[1, 8]` f32 | [`Hyper`] |
//!
//! Where the global norm is not finite nothing is updated, so that the run can stop with its last good parameters.
//!
//! **Gradient.** None.

use super::{Example, OpEntry, Random, expect, spread};
use crate::graph::{Bind, Call, Derivative, Dispatch, Matrix, Op, Rows, ShapeError, TensorType};
use crate::kernel::Kernel;
use crate::kernel_params;

#[derive(Clone, Copy, Debug)]
pub struct AdamW;

/// What a step needs besides the state; the `hyper` input is its fields in this order.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Hyper {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Number of this step, from 1.
    pub step: u64,
    /// 0: no clipping.
    pub max_grad_norm: f64,
}

impl Hyper {
    /// The `hyper` input, `[1, 8]`. The bias corrections `1 - beta^step` are computed in f64.
    pub fn values(&self) -> [f32; 8] {
        let correction = |beta: f64| 1.0 - beta.powf(self.step as f64);
        [
            self.learning_rate,
            self.beta1,
            self.beta2,
            self.eps,
            self.weight_decay,
            correction(self.beta1),
            correction(self.beta2),
            self.max_grad_norm,
        ]
        .map(|value| value as f32)
    }
}

impl Op for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("adamw", inputs, 6)?;
        let parameters = inputs[0];
        expect::same("adamw", "parameters", parameters, TensorType::f32(Rows::Fixed(1), parameters.shape.columns))?;
        for (input, what) in [(1, "gradients"), (2, "first_moment"), (3, "second_moment")] {
            expect::same("adamw", what, inputs[input], parameters)?;
        }
        expect::same("adamw", "global_norm", inputs[4], TensorType::f32(Rows::Fixed(1), 1))?;
        expect::same("adamw", "hyper", inputs[5], TensorType::f32(Rows::Fixed(1), 8))?;
        Ok(vec![parameters; 3])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it is a step of the optimizer, after differentiation")
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let [parameters, gradients, first_moment, second_moment, global_norm, hyper] = inputs else {
            unreachable!("checked by infer")
        };
        let (mut theta, mut m, mut v) = ((*parameters).clone(), (*first_moment).clone(), (*second_moment).clone());
        let norm = global_norm.data[0];
        if !norm.is_finite() {
            return vec![theta, m, v];
        }
        let [learning_rate, beta1, beta2, eps, weight_decay, bias_correction1, bias_correction2, max_grad_norm] = hyper.data[..]
        else {
            unreachable!("checked by infer")
        };
        let clip = if max_grad_norm > 0.0 { (max_grad_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        for i in 0..theta.data.len() {
            let g = gradients.data[i] * clip;
            m.data[i] += (1.0 - beta1) * (g - m.data[i]);
            v.data[i] = beta2 * v.data[i] + (1.0 - beta2) * g * g;
            let denominator = v.data[i].sqrt() / bias_correction2.sqrt() + eps;
            theta.data[i] *= 1.0 - learning_rate * weight_decay;
            theta.data[i] -= learning_rate / bias_correction1 * m.data[i] / denominator;
        }
        vec![theta, m, v]
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (1, 2), (2, 3)]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let elements = call.outputs[0].elements();
        vec![Dispatch {
            bindings: vec![Bind::Input(1), Bind::Input(4), Bind::Input(5), Bind::Output(0), Bind::Output(1), Bind::Output(2)],
            ..Dispatch::only(&KERNEL, call, Params { elements: elements as u32 }.bytes(), spread(elements.div_ceil(1024)))
        }]
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        16 * inputs[0][1] as u64
    }
}

kernel_params!(Params { elements: u32 });

/// One workgroup for 1,024 parameters.
pub static KERNEL: Kernel = Kernel::checked("adamw", Params::FIELDS);

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "adamw",
        kernels: vec![&KERNEL],
        examples: |random| {
            [(1, 1, 0.0), (7, 2, 1.0), (130, 10, 0.5), (5000, 100, 1e3)]
                .map(|(elements, step, max_grad_norm)| example(random, elements, step, max_grad_norm))
                .into()
        },
        tolerance: |_| 1e-6,
    }
}

fn example(random: &mut Random, elements: usize, step: u64, max_grad_norm: f64) -> Example {
    let shape = [1, elements];
    let row = TensorType::f32(Rows::Fixed(1), elements);
    let gradients = random.matrix(shape, 0.5);
    let norm = gradients.data.iter().map(|g| g * g).sum::<f64>().sqrt() as f32;
    let mut second_moment = random.matrix(shape, 1.0);
    second_moment.data.iter_mut().for_each(|v| *v = f64::from((*v * *v) as f32 + 1e-3));
    let hyper =
        Hyper { learning_rate: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step, max_grad_norm }.values();
    let inputs = vec![
        (row, random.matrix(shape, 1.0)),
        (row, gradients),
        (row, random.matrix(shape, 0.5)),
        (row, second_moment),
        (TensorType::f32(Rows::Fixed(1), 1), Matrix::new([1, 1], vec![f64::from(norm)])),
        (TensorType::f32(Rows::Fixed(1), 8), Matrix::new([1, 8], hyper.map(f64::from).into())),
    ];
    Example::new(AdamW, inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two steps from zero moments, worked by hand: at step 1, m / bias_correction1 = g and sqrt(v / bias_correction2) = |g|, so the
    /// step is the learning rate in the direction of the gradient's sign.
    #[test]
    fn first_step_is_the_learning_rate() {
        let one = |value: f64| Matrix::new([1, 2], vec![value, -value]);
        let hyper =
            Hyper { learning_rate: 0.25, beta1: 0.5, beta2: 0.75, eps: 0.0, weight_decay: 0.5, step: 1, max_grad_norm: 0.0 };
        let hyper = Matrix::new([1, 8], hyper.values().map(f64::from).into());
        let (zero, norm) = (Matrix::zeros([1, 2]), Matrix::new([1, 1], vec![1.0]));
        let inputs = [&one(2.0), &one(3.0), &zero, &zero, &norm, &hyper];
        let outputs = AdamW.reference(&inputs, &[[1, 2]; 3]);
        // 2 (1 - 0.25 * 0.5) - 0.25
        assert_eq!(outputs[0].data, [1.5, -1.5]);
        assert_eq!(outputs[1].data, [1.5, -1.5]);
        assert_eq!(outputs[2].data, [2.25, 2.25]);
    }

    #[test]
    fn a_norm_that_is_not_finite_changes_nothing() {
        let example = example(&mut Random(1), 5, 3, 1.0);
        let mut inputs: Vec<Matrix> = example.inputs.into_iter().map(|(_, matrix)| matrix).collect();
        inputs[4].data[0] = f64::NAN;
        let outputs = AdamW.reference(&inputs.iter().collect::<Vec<_>>(), &[[1, 5]; 3]);
        assert_eq!(outputs, [inputs[0].clone(), inputs[2].clone(), inputs[3].clone()]);
    }
}
