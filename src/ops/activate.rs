//! `activate`: an elementwise non-linearity, `y = f(x)`, `[rows, columns]` f32: what stands between the two matrices of a bottleneck adapter.
//!
//! | [`NonLinearity`] | `f(x)` | `f'(x)` |
//! |---|---|---|
//! | `Relu` | `max(x, 0)` | 1 above 0, else 0 |
//! | `LeakyRelu` | `x` above 0, else `0.01 x` | 1 above 0, else 0.01 |
//! | `Relu2` | `max(x, 0)^2` | `2 max(x, 0)` |
//! | `Relu6` | `min(max(x, 0), 6)` | 1 between 0 and 6, else 0 |
//! | `Silu` | `x s(x)` | `s + x s (1 - s)` |
//! | `QuickGelu` | `x s(1.702 x)` | `s + 1.702 x s (1 - s)` |
//! | `GeluTanh` | `x s(z)`, `z = 2 sqrt(2/pi) (x + 0.044715 x^3)` | `s + x s (1 - s) z'` |
//! | `Gelu` | `x Phi(x)` | `Phi(x) + x phi(x)` |
//! | `Tanh` | `tanh(x)` | `1 - tanh^2(x) = 1 / cosh^2(x)` |
//! | `Sigmoid` | `s(x)` | `s (1 - s)` |
//!
//! with `s(z) = 1 / (1 + e^-z)`, `Phi(x) = (1 + erf(x / sqrt 2)) / 2` and `phi(x) = e^(-x^2 / 2) / sqrt(2 pi)`. At a corner the slope is
//! PyTorch's, that of the left side.
//!
//! **Gradient.** `d_x = d_y f'(x)`, from the input, which is narrow in an adapter.

use super::{Elements, Example, OpEntry, Random, expect};
use crate::graph::{Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Rows, ShapeError, TensorType, Vjp};
use crate::kernel::Kernel;

/// Forward.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Activate(pub NonLinearity);

/// Inputs `x, d_y`; output `d_x`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ActivateBackward(pub NonLinearity);

/// The formulas are in the [module](self).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NonLinearity {
    Relu,
    LeakyRelu,
    Relu2,
    Relu6,
    Silu,
    QuickGelu,
    GeluTanh,
    Gelu,
    Tanh,
    Sigmoid,
}

impl NonLinearity {
    pub const ALL: [Self; 10] = [
        Self::Relu,
        Self::LeakyRelu,
        Self::Relu2,
        Self::Relu6,
        Self::Silu,
        Self::QuickGelu,
        Self::GeluTanh,
        Self::Gelu,
        Self::Tanh,
        Self::Sigmoid,
    ];

    const LEAK: f64 = 0.01;
    const QUICK: f64 = 1.702;
    const TWICE_SQRT_2_PI: f64 = 2.0 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
    const CUBE: f64 = 0.044715;

    /// `f(x)`
    pub fn of(self, x: f64) -> f64 {
        match self {
            Self::Relu => x.max(0.0),
            Self::LeakyRelu if x > 0.0 => x,
            Self::LeakyRelu => Self::LEAK * x,
            Self::Relu2 => x.max(0.0).powi(2),
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::Silu => x * sigmoid(x),
            Self::QuickGelu => x * sigmoid(Self::QUICK * x),
            Self::GeluTanh => x * sigmoid(Self::TWICE_SQRT_2_PI * (x + Self::CUBE * x.powi(3))),
            Self::Gelu => x * normal_share(x),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => sigmoid(x),
        }
    }

    /// `f'(x)`
    pub fn slope(self, x: f64) -> f64 {
        let of_share = |s: f64, inner: f64| s + x * s * (1.0 - s) * inner;
        let one_if = |condition: bool, otherwise: f64| if condition { 1.0 } else { otherwise };
        match self {
            Self::Relu => one_if(x > 0.0, 0.0),
            Self::LeakyRelu => one_if(x > 0.0, Self::LEAK),
            Self::Relu2 => 2.0 * x.max(0.0),
            Self::Relu6 => one_if(x > 0.0 && x < 6.0, 0.0),
            Self::Silu => of_share(sigmoid(x), 1.0),
            Self::QuickGelu => of_share(sigmoid(Self::QUICK * x), Self::QUICK),
            Self::GeluTanh => of_share(
                sigmoid(Self::TWICE_SQRT_2_PI * (x + Self::CUBE * x.powi(3))),
                Self::TWICE_SQRT_2_PI * (1.0 + 3.0 * Self::CUBE * x * x),
            ),
            Self::Gelu => normal_share(x) + x * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt(),
            Self::Tanh => 1.0 / x.cosh().powi(2),
            Self::Sigmoid => sigmoid(x) * sigmoid(-x),
        }
    }

    /// Its number in the kernels.
    fn constants(self) -> Vec<(&'static str, f64)> {
        vec![("NON_LINEARITY", f64::from(self as u8))]
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `Phi(x)`, the share of the standard normal distribution that lies below x: 1/2 + phi(x) (x + x^3/3 + x^5/15 + ...), whose terms are all
/// of one sign.
fn normal_share(x: f64) -> f64 {
    // Beyond, what is left is smaller than f64 tells from 0 or 1.
    if x.abs() > 9.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut term, mut sum, mut odd) = (x, 0.0, 1.0);
    while f64::abs(term) > 1e-18 * f64::abs(sum) {
        sum += term;
        odd += 2.0;
        term *= x * x / odd;
    }
    0.5 + sum * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

impl Op for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("activate", inputs, 1)?;
        expect::dtype("activate", "x", inputs[0], DType::F32)?;
        Ok(vec![inputs[0]])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        vec![Matrix::new(outputs[0], inputs[0].data.iter().map(|&x| self.0.of(x)).collect())]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        launch(&FORWARD, self.0, call)
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        4 * (inputs[0][0] * inputs[0][1]) as u64
    }
}

impl Differentiate for Activate {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let (Some(d_y), true) = (vjp.d_outputs[0], vjp.wants(0)) else { return Ok(()) };
        let name = vjp.d_name(0);
        let d_x = vjp.graph.apply_one(ActivateBackward(self.0), &[vjp.inputs[0], d_y], name)?;
        vjp.give(0, d_x);
        Ok(())
    }
}

impl Op for ActivateBackward {
    fn name(&self) -> &'static str {
        "activate_backward"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("activate_backward", inputs, 2)?;
        expect::dtype("activate_backward", "x", inputs[0], DType::F32)?;
        expect::same("activate_backward", "d_y", inputs[1], inputs[0])?;
        Ok(vec![inputs[0]])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it is a gradient itself, and gradients are not differentiated again")
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let d_x = inputs[0].data.iter().zip(&inputs[1].data).map(|(&x, d_y)| d_y * self.0.slope(x));
        vec![Matrix::new(outputs[0], d_x.collect())]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        launch(&BACKWARD, self.0, call)
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        8 * (inputs[0][0] * inputs[0][1]) as u64
    }
}

fn launch(kernel: &'static Kernel, of: NonLinearity, call: &Call) -> Vec<Dispatch> {
    vec![Dispatch { constants: of.constants(), ..Elements::dispatch(kernel, call) }]
}

/// One workgroup for 1,024 elements.
pub static FORWARD: Kernel = Kernel::plain("activate", Elements::FIELDS);

/// One workgroup for 1,024 elements.
pub static BACKWARD: Kernel = Kernel::plain("activate_backward", Elements::FIELDS);

/// Examples of every non-linearity, on `matrices` inputs of one shape; the last holds magnitudes at which exp(-x) overflows f32.
fn examples_of<T: Op + 'static>(random: &mut Random, op: impl Fn(NonLinearity) -> T, matrices: usize) -> Vec<Example> {
    let sizes = [(1, 1, 2.0), (17, 65, 8.0), (3, 1027, 2.0), (5, 13, 2e2)];
    let mut examples = Vec::new();
    for of in NonLinearity::ALL {
        for (rows, columns, scale) in sizes {
            let x = TensorType::f32(Rows::Fixed(rows), columns);
            let inputs = (0..matrices).map(|_| (x, random.matrix([rows, columns], scale))).collect();
            examples.push(Example::new(op(of), inputs));
        }
    }
    examples
}

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "activate",
        kernels: vec![&FORWARD],
        examples: |random| examples_of(random, Activate, 1),
        tolerance: |_| 1e-6,
    }
}

pub(super) fn backward_entry() -> OpEntry {
    OpEntry {
        name: "activate_backward",
        kernels: vec![&BACKWARD],
        examples: |random| examples_of(random, ActivateBackward, 2),
        tolerance: |_| 1e-5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Phi from tables of the normal distribution (Abramowitz and Stegun, table 26.1), to its ten figures.
    #[test]
    fn the_share_of_the_normal_distribution_is_that_of_the_tables() {
        for (x, phi) in [(0.0, 0.5), (1.0, 0.8413447461), (2.0, 0.9772498681), (3.0, 0.9986501020)] {
            assert!((normal_share(x) - phi).abs() < 1e-10, "Phi({x})");
            assert!((normal_share(-x) - (1.0 - phi)).abs() < 1e-10, "Phi(-{x})");
        }
        assert!((normal_share(8.9) - normal_share(9.1)).abs() < 1e-15);
    }
}
