//! `add_expert_bias`: a row vector of each expert added to the rows that were sent to it: `out[s, c] = x[s, c] + bias[e, c]` for
//! `offsets[e] <= s < offsets[e + 1]`, as [`crate::ops::sort_by_expert`] has them.
//!
//! | input | shape |
//! |---|---|
//! | x | `[S, columns]` f32 |
//! | bias | `[E, columns]` f32, frozen |
//! | offsets | `[E + 1, 1]` u32 |
//!
//! **Gradient.** `d_x = d_out`: the same value, no node.

use super::{Example, OpEntry, expect, spread};
use crate::graph::{Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Rows, ShapeError, TensorType, Vjp};
use crate::kernel::Kernel;
use crate::kernel_params;

/// See the [module](self).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddExpertBias;

impl Op for AddExpertBias {
    fn name(&self) -> &'static str {
        "add_expert_bias"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        const OP: &str = "add_expert_bias";
        expect::count(OP, inputs, 3)?;
        let [x, bias, offsets] = [inputs[0], inputs[1], inputs[2]];
        expect::dtype(OP, "x", x, DType::F32)?;
        let Rows::Fixed(experts @ 1..) = bias.shape.rows else {
            return Err(ShapeError::new(OP, "bias", bias, "a fixed number of rows, one for each expert"));
        };
        expect::same(OP, "bias", bias, TensorType::f32(Rows::Fixed(experts), x.shape.columns))?;
        expect::same(OP, "offsets", offsets, TensorType::u32(Rows::Fixed(experts + 1), 1))?;
        Ok(vec![x])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let [x, bias, offsets] = inputs else { unreachable!("checked by infer") };
        let mut out = (*x).clone();
        for expert in 0..bias.rows {
            for row in offsets.index(expert, 0)..offsets.index(expert + 1, 0) {
                out.row_mut(row).iter_mut().zip(bias.row(expert)).for_each(|(x, bias)| *x += bias);
            }
        }
        vec![out]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let (out, bias) = (&call.outputs[0], &call.inputs[1]);
        let [rows, columns, experts] = [out.rows, out.columns(), bias.rows].map(|number| number as u32);
        vec![Dispatch::only(&KERNEL, call, Params { rows, columns, experts }.bytes(), spread(out.rows))]
    }
}

impl Differentiate for AddExpertBias {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let Some(d_out) = vjp.d_outputs[0] else { return Ok(()) };
        if vjp.wants(0) {
            vjp.give(0, d_out);
        }
        Ok(())
    }
}

kernel_params!(Params { rows: u32, columns: u32, experts: u32 });

/// One workgroup a row.
pub static KERNEL: Kernel = Kernel::checked("add_expert_bias", Params::FIELDS);

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "add_expert_bias",
        kernels: vec![&KERNEL],
        examples: |random| {
            let mut example = |[rows, columns, experts]: [usize; 3]| {
                // Any experts, some of them without rows.
                let mut ends: Vec<usize> = (1..experts).map(|_| random.below(rows + 1)).chain([0, rows]).collect();
                ends.sort_unstable();
                let offsets = Matrix::new([experts + 1, 1], ends.into_iter().map(|end| end as f64).collect());
                let mut values = |rows| (TensorType::f32(Rows::Fixed(rows), columns), random.matrix([rows, columns], 3.0));
                let (x, bias) = (values(rows), values(experts));
                Example::new(AddExpertBias, vec![x, bias, (TensorType::u32(Rows::Fixed(experts + 1), 1), offsets)])
            };
            [[1, 1, 1], [3, 5, 8], [130, 65, 4], [70, 96, 32]].map(&mut example).into()
        },
        tolerance: |_| 1e-6,
    }
}
