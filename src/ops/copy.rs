//! `copy`: `y = x`, `[rows, columns]` f32, columns a multiple of 4. Moves memory and computes nothing, so
//! [`crate::bench`] measures the bandwidth with it.
//!
//! **Gradient.** None: no model has this op.

use super::{Example, OpEntry, expect, spread};
use crate::graph::{Call, DType, Derivative, Dispatch, Matrix, Op, Rows, ShapeError, TensorType};
use crate::kernel::Kernel;
use crate::kernel_params;

#[derive(Clone, Copy, Debug)]
pub struct Copy;

impl Op for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("copy", inputs, 1)?;
        expect::dtype("copy", "x", inputs[0], DType::F32)?;
        if !inputs[0].shape.columns.is_multiple_of(4) {
            return Err(ShapeError::new("copy", "x", inputs[0], "a multiple of 4 columns"));
        }
        Ok(vec![inputs[0]])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it only moves values between buffers")
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        vec![inputs[0].clone()]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let vec4s = call.outputs[0].elements() / 4;
        vec![Dispatch::only(&KERNEL, call, Params { vec4s: vec4s as u32 }.bytes(), spread(vec4s.div_ceil(1024)))]
    }

    fn flops(&self, _: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        0
    }
}

kernel_params!(Params { vec4s: u32 });

/// One workgroup for 4,096 elements.
pub static KERNEL: Kernel = Kernel::plain("copy", Params::FIELDS);

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "copy",
        kernels: vec![&KERNEL],
        examples: |random| {
            let example = |(rows, columns)| {
                let matrix = TensorType::f32(Rows::Fixed(rows), columns);
                Example::new(Copy, vec![(matrix, random.matrix([rows, columns], 1.0))])
            };
            [(1, 4), (7, 12), (65, 64), (9, 1028)].map(example).into()
        },
        tolerance: |_| 0.0,
    }
}
