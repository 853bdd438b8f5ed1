//! `glu`: the gated activations of MLPs (Shazeer 2020, arXiv 2002.05202): SwiGLU, also with bounds, and GeGLU with the tanh form of GELU
//! (Hendrycks & Gimpel 2016, arXiv 1606.08415).
//!
//! `y = activation(gate) * up`, element by element, with `activation(g) = g s(g)` and `sigmoid(z) = 1 / (1 + e^-z)`:
//!
//! | [`Activation`] | `s(g)` | |
//! |---|---|---|
//! | `Silu` | `sigmoid(g)` | Llama's |
//! | `GeluTanh` | `sigmoid(z)`, `z = 2 sqrt(2/pi) (g + 0.044715 g^3)` | `gelu_pytorch_tanh`: `(1 + tanh(z/2)) / 2 = sigmoid(z)` |
//! | `ClampedSilu` | `sigmoid(alpha g)` | gpt-oss's: `min(gate, limit)` for gate, `1 + clamp(up, -limit, limit)` for up |
//!
//! | input | shape |
//! |---|---|
//! | gate | `[rows, columns]` f32 |
//! | up | `[rows, columns]` f32 |
//!
//! **Gradient.** `sigmoid' = s (1 - s)`, so `activation'(g) = s + g s (1 - s) z'`, with `z' = 1` for silu and
//! `2 sqrt(2/pi) (1 + 3 * 0.044715 g^2)` for gelu; hence `d_gate = d_y up activation'(gate)` and `d_up = d_y activation(gate)`. Where a bound
//! has taken the place of gate or up, its gradient is 0; at the bound itself it is not, as in PyTorch.

use super::{Elements, Example, OpEntry, Random, expect};
use crate::graph::{Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Rows, ShapeError, TensorType, Vjp};
use crate::kernel::Kernel;

/// Forward.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Glu {
    pub activation: Activation,
}

/// Inputs `gate, up, d_y`; outputs `d_gate, d_up`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GluBackward {
    pub activation: Activation,
}

/// What the gate goes through; the formulas are in the [module](self).
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Activation {
    Silu,
    GeluTanh,
    /// Bounds gate from above and up from both sides by `limit`, above 0, and adds 1 to up.
    ClampedSilu {
        limit: f64,
        alpha: f64,
    },
}

impl Activation {
    const TWICE_SQRT_2_PI: f64 = 2.0 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
    const CUBE: f64 = 0.044715;

    /// `activation(g)`
    pub fn of(self, g: f64) -> f64 {
        let g = self.gate(g);
        g * self.share(g)
    }

    /// What stands for gate.
    fn gate(self, g: f64) -> f64 {
        match self {
            Self::Silu | Self::GeluTanh => g,
            Self::ClampedSilu { limit, .. } => g.min(limit),
        }
    }

    /// What stands for up.
    fn up(self, u: f64) -> f64 {
        match self {
            Self::Silu | Self::GeluTanh => u,
            Self::ClampedSilu { limit, .. } => u.clamp(-limit, limit) + 1.0,
        }
    }

    /// The slopes of [`Self::gate`] and [`Self::up`].
    fn bound_slopes(self, g: f64, u: f64) -> [f64; 2] {
        let within = |is: bool| if is { 1.0 } else { 0.0 };
        match self {
            Self::Silu | Self::GeluTanh => [1.0; 2],
            Self::ClampedSilu { limit, .. } => [within(g <= limit), within(u.abs() <= limit)],
        }
    }

    /// `s(g)`
    fn share(self, g: f64) -> f64 {
        sigmoid(match self {
            Self::Silu => g,
            Self::GeluTanh => Self::TWICE_SQRT_2_PI * (g + Self::CUBE * g.powi(3)),
            Self::ClampedSilu { alpha, .. } => alpha * g,
        })
    }

    /// `z'(g)`
    fn inner_slope(self, g: f64) -> f64 {
        match self {
            Self::Silu => 1.0,
            Self::GeluTanh => Self::TWICE_SQRT_2_PI * (1.0 + 3.0 * Self::CUBE * g * g),
            Self::ClampedSilu { alpha, .. } => alpha,
        }
    }

    /// Its number in the kernels, and its own numbers.
    fn constants(self) -> Vec<(&'static str, f64)> {
        match self {
            Self::Silu => vec![("ACTIVATION", 0.0)],
            Self::GeluTanh => vec![("ACTIVATION", 1.0)],
            Self::ClampedSilu { limit, alpha } => vec![("ACTIVATION", 2.0), ("LIMIT", limit), ("ALPHA", alpha)],
        }
    }

    fn check(self, op: &'static str) -> Result<(), ShapeError> {
        match self {
            Self::ClampedSilu { limit, alpha } if !(limit > 0.0 && limit.is_finite() && alpha.is_finite()) => {
                Err(ShapeError::new(op, "activation", format!("{self:?}"), "a limit above 0 and a finite alpha"))
            }
            _ => Ok(()),
        }
    }
}

impl Op for Glu {
    fn name(&self) -> &'static str {
        "glu"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        self.activation.check("glu")?;
        expect::count("glu", inputs, 2)?;
        expect::dtype("glu", "gate", inputs[0], DType::F32)?;
        expect::same("glu", "up", inputs[1], inputs[0])?;
        Ok(vec![inputs[0]])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let [gate, up] = inputs else { unreachable!("checked by infer") };
        let y = gate.data.iter().zip(&up.data).map(|(g, u)| self.activation.of(*g) * self.activation.up(*u)).collect();
        vec![Matrix::new([gate.rows, gate.columns], y)]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        launch(&FORWARD, self.activation, call)
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        5 * (inputs[0][0] * inputs[0][1]) as u64
    }
}

impl Differentiate for Glu {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let Some(d_y) = vjp.d_outputs[0] else { return Ok(()) };
        if !vjp.wants(0) && !vjp.wants(1) {
            return Ok(());
        }
        let name = vjp.d_name(0);
        let gradients =
            vjp.graph.apply(GluBackward { activation: self.activation }, &[vjp.inputs[0], vjp.inputs[1], d_y], name)?;
        for (input, gradient) in gradients.into_iter().enumerate() {
            if vjp.wants(input) {
                vjp.give(input, gradient);
            }
        }
        Ok(())
    }
}

impl Op for GluBackward {
    fn name(&self) -> &'static str {
        "glu_backward"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        self.activation.check("glu_backward")?;
        expect::count("glu_backward", inputs, 3)?;
        expect::dtype("glu_backward", "gate", inputs[0], DType::F32)?;
        expect::same("glu_backward", "up", inputs[1], inputs[0])?;
        expect::same("glu_backward", "d_y", inputs[2], inputs[0])?;
        Ok(vec![inputs[0], inputs[0]])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it is a gradient itself, and gradients are not differentiated again")
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let [gate, up, d_y] = inputs else { unreachable!("checked by infer") };
        let shape = [gate.rows, gate.columns];
        let (mut d_gate, mut d_up) = (Matrix::zeros(shape), Matrix::zeros(shape));
        for i in 0..gate.data.len() {
            let (g, u) = (self.activation.gate(gate.data[i]), self.activation.up(up.data[i]));
            let [of_gate, of_up] = self.activation.bound_slopes(gate.data[i], up.data[i]);
            let s = self.activation.share(g);
            d_gate.data[i] = d_y.data[i] * u * (s + g * s * (1.0 - s) * self.activation.inner_slope(g)) * of_gate;
            d_up.data[i] = d_y.data[i] * g * s * of_up;
        }
        vec![d_gate, d_up]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        launch(&BACKWARD, self.activation, call)
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        10 * (inputs[0][0] * inputs[0][1]) as u64
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn launch(kernel: &'static Kernel, activation: Activation, call: &Call) -> Vec<Dispatch> {
    vec![Dispatch { constants: activation.constants(), ..Elements::dispatch(kernel, call) }]
}

/// One workgroup for 1,024 elements.
pub static FORWARD: Kernel = Kernel::plain("glu", Elements::FIELDS);

/// One workgroup for 1,024 elements.
pub static BACKWARD: Kernel = Kernel::plain("glu_backward", Elements::FIELDS);

/// Examples of all activations with `matrices` inputs of one shape; the last holds large magnitudes, at which exp(-gate) overflows f32.
fn examples_of<T: Op + 'static>(random: &mut Random, op: impl Fn(Activation) -> T, matrices: usize) -> Vec<Example> {
    let sizes = [(1, 1, 2.0), (3, 7, 4.0), (17, 65, 8.0), (9, 1536, 2.0), (5, 13, 1e4)];
    let mut examples = Vec::new();
    for kind in 0..3 {
        for (rows, columns, scale) in sizes {
            let activation = match kind {
                0 => Activation::Silu,
                1 => Activation::GeluTanh,
                // Of large magnitudes, too, some are within.
                _ => Activation::ClampedSilu { limit: f64::max(7.0, scale / 2.0), alpha: 1.702 },
            };
            let x = TensorType::f32(Rows::Fixed(rows), columns);
            let inputs = (0..matrices).map(|_| (x, random.matrix([rows, columns], scale))).collect();
            examples.push(Example::new(op(activation), inputs));
        }
    }
    examples
}

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "glu",
        kernels: vec![&FORWARD],
        examples: |random| examples_of(random, |activation| Glu { activation }, 2),
        tolerance: |_| 1e-6,
    }
}

pub(super) fn backward_entry() -> OpEntry {
    OpEntry {
        name: "glu_backward",
        kernels: vec![&BACKWARD],
        examples: |random| examples_of(random, |activation| GluBackward { activation }, 3),
        tolerance: |_| 1e-5,
    }
}
