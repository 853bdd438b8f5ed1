//! `multiply_add`: `x <- factor x + addend`, `steps` times, on `[1, elements]` f32. It computes in registers and moves nothing
//! meanwhile, so [`crate::bench`] measures the device's peak with it.
//!
//! With `|factor| < 1` the values stay bounded however many steps there are.
//!
//! **Gradient.** None: no model has this op.

use super::{Example, OpEntry, expect, spread};
use crate::graph::{Call, Derivative, Dispatch, Matrix, Op, Rows, ShapeError, TensorType};
use crate::kernel::Kernel;
use crate::kernel_params;

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct MultiplyAdd {
    /// A multiple of [`MultiplyAdd::UNROLLED`].
    pub steps: u32,
    /// Independent vectors of 4 that an invocation works on at a time, one of [`MultiplyAdd::CHAINS`]; the result is the same.
    pub chains: u32,
    pub factor: f64,
    pub addend: f64,
}

impl MultiplyAdd {
    /// Steps that the kernel does in one go.
    pub const UNROLLED: u32 = 8;
    /// Numbers of chains that the kernel knows.
    pub const CHAINS: [u32; 4] = [1, 2, 4, 8];
}

impl Op for MultiplyAdd {
    fn name(&self) -> &'static str {
        "multiply_add"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("multiply_add", inputs, 1)?;
        let columns = inputs[0].shape.columns;
        expect::same("multiply_add", "x", inputs[0], TensorType::f32(Rows::Fixed(1), columns))?;
        if !columns.is_multiple_of(4) {
            return Err(ShapeError::new("multiply_add", "x", inputs[0], "a multiple of 4 columns"));
        }
        if !self.steps.is_multiple_of(Self::UNROLLED) {
            return Err(ShapeError::new("multiply_add", "steps", self.steps, format!("a multiple of {}", Self::UNROLLED)));
        }
        if !Self::CHAINS.contains(&self.chains) {
            return Err(ShapeError::new("multiply_add", "chains", self.chains, format!("one of {:?}", Self::CHAINS)));
        }
        Ok(vec![inputs[0]])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("no model has it")
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        // The factors as f32 holds them.
        let (factor, addend) = (f64::from(self.factor as f32), f64::from(self.addend as f32));
        let mut y = inputs[0].clone();
        for value in &mut y.data {
            for _ in 0..self.steps {
                *value = factor * *value + addend;
            }
        }
        vec![y]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let vec4s = call.outputs[0].elements() / 4;
        let params = Params { vec4s: vec4s as u32, steps: self.steps, factor: self.factor as f32, addend: self.addend as f32 };
        vec![Dispatch {
            constants: vec![("CHAINS", f64::from(self.chains))],
            ..Dispatch::only(&KERNEL, call, params.bytes(), spread(vec4s.div_ceil(64 * self.chains as usize)))
        }]
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        2 * u64::from(self.steps) * inputs[0][1] as u64
    }
}

kernel_params!(Params { vec4s: u32, steps: u32, factor: f32, addend: f32 });

/// One workgroup for 256 elements a chain.
pub static KERNEL: Kernel = Kernel::plain("multiply_add", Params::FIELDS);

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "multiply_add",
        kernels: vec![&KERNEL],
        examples: |random| {
            let example = |(elements, steps, chains)| {
                let op = MultiplyAdd { steps, chains, factor: 0.75, addend: -0.5 };
                Example::new(op, vec![(TensorType::f32(Rows::Fixed(1), elements), random.matrix([1, elements], 2.0))])
            };
            [(4, 8, 1), (260, 16, 2), (1028, 0, 4), (5000, 8, 4), (4100, 24, 8)].map(example).into()
        },
        tolerance: |_| 1e-6,
    }
}
