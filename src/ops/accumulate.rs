//! `accumulate`: `total += x`, in place; both `[rows, columns]` f32. Sums the adapter gradients of the batches of one optimizer step.
//!
//! It is applied to gradients, so it has no gradient rule of its own.

use super::{Example, OpEntry, expect, spread};
use crate::graph::{Bind, Call, DType, Derivative, Dispatch, Matrix, Op, Rows, ShapeError, TensorType};
use crate::kernel::Kernel;
use crate::kernel_params;

/// See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct Accumulate;

impl Op for Accumulate {
    fn name(&self) -> &'static str {
        "accumulate"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("accumulate", inputs, 2)?;
        expect::dtype("accumulate", "total", inputs[0], DType::F32)?;
        expect::same("accumulate", "x", inputs[1], inputs[0])?;
        Ok(vec![inputs[0]])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it updates gradients, after differentiation")
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let sums = inputs[0].data.iter().zip(&inputs[1].data).map(|(total, x)| total + x).collect();
        vec![Matrix::new(outputs[0], sums)]
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let count = call.outputs[0].elements();
        vec![Dispatch {
            bindings: vec![Bind::Input(1), Bind::Output(0)],
            ..Dispatch::only(&ACCUMULATE, call, Params { count: count as u32 }.bytes(), spread(count.div_ceil(256)))
        }]
    }
}

kernel_params!(Params { count: u32 });

static ACCUMULATE: Kernel = Kernel::checked("accumulate", Params::FIELDS);

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "accumulate",
        kernels: vec![&ACCUMULATE],
        examples: |random| {
            [1, 255, 257, 5000]
                .map(|count| {
                    let tensor = TensorType::f32(Rows::Fixed(1), count);
                    Example::new(
                        Accumulate,
                        vec![(tensor, random.matrix([1, count], 1.0)), (tensor, random.matrix([1, count], 8.0))],
                    )
                })
                .into()
        },
        tolerance: |_| 1e-6,
    }
}
