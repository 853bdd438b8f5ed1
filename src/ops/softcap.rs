//! `softcap`: logits bent towards a bound, as in Gemma 2: `y = c tanh(x / c)`, `[rows, columns]` f32.
//!
//! Scores of [attention](super::attention) and the logits of [the loss](super::linear_cross_entropy) have this inside their own op; this
//! one is for logits that leave the graph.
//!
//! **Gradient.** `tanh' = 1 - tanh^2`, so `d_x = d_y (1 - (y / c)^2)`.

use super::{Elements, Example, OpEntry, Random, expect};
use crate::graph::{Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Rows, ShapeError, TensorType, Vjp};
use crate::kernel::Kernel;

/// Forward.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Softcap {
    /// `c`, above 0.
    pub cap: f64,
}

/// Inputs `y, d_y`; output `d_x`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SoftcapBackward {
    /// As in [`Softcap`].
    pub cap: f64,
}

/// `x` under a cap, if there is one.
pub(super) fn capped(x: f64, cap: Option<f64>) -> f64 {
    cap.map_or(x, |cap| cap * (x / cap).tanh())
}

/// The derivative of [`capped`], from its value.
pub(super) fn slope(capped: f64, cap: Option<f64>) -> f64 {
    cap.map_or(1.0, |cap| 1.0 - (capped / cap).powi(2))
}

/// The cap as the kernels know it.
pub(super) fn constant(cap: Option<f64>) -> (&'static str, f64) {
    ("SOFTCAP", cap.unwrap_or(0.0))
}

/// A cap is a finite number above 0.
pub(super) fn check(op: &'static str, cap: Option<f64>) -> Result<(), ShapeError> {
    match cap {
        Some(cap) if !(cap.is_finite() && cap > 0.0) => Err(ShapeError::new(op, "softcap", cap, "a number above 0")),
        _ => Ok(()),
    }
}

impl Op for Softcap {
    fn name(&self) -> &'static str {
        "softcap"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("softcap", inputs, 1)?;
        check("softcap", Some(self.cap))?;
        expect::dtype("softcap", "x", inputs[0], DType::F32)?;
        Ok(vec![inputs[0]])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        vec![Matrix::new(outputs[0], inputs[0].data.iter().map(|&x| capped(x, Some(self.cap))).collect())]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        launch(&FORWARD, self.cap, call)
    }
}

impl Differentiate for Softcap {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let (Some(d_y), true) = (vjp.d_outputs[0], vjp.wants(0)) else { return Ok(()) };
        let name = vjp.d_name(0);
        let d_x = vjp.graph.apply_one(SoftcapBackward { cap: self.cap }, &[vjp.outputs[0], d_y], name)?;
        vjp.give(0, d_x);
        Ok(())
    }
}

impl Op for SoftcapBackward {
    fn name(&self) -> &'static str {
        "softcap_backward"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("softcap_backward", inputs, 2)?;
        check("softcap_backward", Some(self.cap))?;
        expect::dtype("softcap_backward", "y", inputs[0], DType::F32)?;
        expect::same("softcap_backward", "d_y", inputs[1], inputs[0])?;
        Ok(vec![inputs[0]])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it is a gradient itself, and gradients are not differentiated again")
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let d_x = inputs[0].data.iter().zip(&inputs[1].data).map(|(&y, d_y)| d_y * slope(y, Some(self.cap)));
        vec![Matrix::new(outputs[0], d_x.collect())]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        launch(&BACKWARD, self.cap, call)
    }
}

fn launch(kernel: &'static Kernel, cap: f64, call: &Call) -> Vec<Dispatch> {
    vec![Dispatch { constants: vec![constant(Some(cap))], ..Elements::dispatch(kernel, call) }]
}

/// One workgroup for 1,024 elements.
pub static FORWARD: Kernel = Kernel::plain("softcap", Elements::FIELDS);

/// One workgroup for 1,024 elements.
pub static BACKWARD: Kernel = Kernel::plain("softcap_backward", Elements::FIELDS);

/// From numbers that the cap hardly bends to numbers far beyond it.
const SIZES: [(usize, usize, f64); 5] = [(1, 1, 20.0), (3, 7, 0.1), (17, 65, 90.0), (1, 1537, 30.0), (5, 13, 1e4)];
const CAP: f64 = 30.0;

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "softcap",
        kernels: vec![&FORWARD],
        examples: |random| {
            let example = |(rows, columns, scale)| {
                let x = (TensorType::f32(Rows::Fixed(rows), columns), random.matrix([rows, columns], scale));
                Example::new(Softcap { cap: CAP }, vec![x])
            };
            SIZES.map(example).into()
        },
        tolerance: |_| 1e-6,
    }
}

pub(super) fn backward_entry() -> OpEntry {
    OpEntry {
        name: "softcap_backward",
        kernels: vec![&BACKWARD],
        examples: |random| examples_of_gradient(random),
        tolerance: |_| 1e-5,
    }
}

fn examples_of_gradient(random: &mut Random) -> Vec<Example> {
    let example = |(rows, columns, _)| {
        let matrix = |scale| (TensorType::f32(Rows::Fixed(rows), columns), random.matrix([rows, columns], scale));
        Example::new(SoftcapBackward { cap: CAP }, [CAP, 1.0].map(matrix).into())
    };
    SIZES.map(example).into()
}
