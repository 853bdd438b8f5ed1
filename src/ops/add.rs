//! `add`: `out = a + b`, element by element; both `[rows, columns]` f32.
//!
//! **Gradient.** `d_a = d_b = d_out`: the same value, no node.

use super::{Example, OpEntry, expect, spread};
use crate::graph::{Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Rows, ShapeError, TensorType, Vjp};
use crate::kernel::Kernel;
use crate::kernel_params;

/// See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct Add;

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("add", inputs, 2)?;
        expect::dtype("add", "a", inputs[0], DType::F32)?;
        expect::same("add", "b", inputs[1], inputs[0])?;
        Ok(vec![inputs[0]])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let sums = inputs[0].data.iter().zip(&inputs[1].data).map(|(a, b)| a + b).collect();
        vec![Matrix::new(outputs[0], sums)]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let count = call.outputs[0].elements();
        vec![Dispatch::only(&ADD, call, Params { count: count as u32 }.bytes(), spread(count.div_ceil(256)))]
    }
}

impl Differentiate for Add {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let Some(d_out) = vjp.d_outputs[0] else { return Ok(()) };
        for input in 0..2 {
            if vjp.wants(input) {
                vjp.give(input, d_out);
            }
        }
        Ok(())
    }
}

kernel_params!(Params { count: u32 });

static ADD: Kernel = Kernel::checked("add", Params::FIELDS);

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "add",
        kernels: vec![&ADD],
        examples: |random| {
            [[1, 1], [3, 5], [7, 255], [2, 128], [257, 33]]
                .map(|[rows, columns]| {
                    let tensor = TensorType::f32(Rows::Fixed(rows), columns);
                    let inputs = [100.0, 1e-3].map(|scale| (tensor, random.matrix([rows, columns], scale)));
                    Example::new(Add, inputs.into())
                })
                .into()
        },
        tolerance: |_| 1e-6,
    }
}
