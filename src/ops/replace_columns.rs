//! `replace_columns`: some columns of a matrix in the place of another's or behind them; the logits of tokens that have rows of their own
//! among those of all tokens.
//!
//! `out[t, v] = z[t, k]` where `v = chosen[k]`, `x[t, v]` where v is none of the chosen columns.
//!
//! | input | shape | |
//! |---|---|---|
//! | x | `[rows, of x]` f32 | |
//! | z | `[rows, own]` f32 | |
//! | chosen | `[own, 1]` u32 | strictly increasing; among them all columns that x does not have |
//!
//! **Gradient.** None: logits are read, and the loss has an op of its own ([`linear_cross_entropy`](super::linear_cross_entropy)).

use super::{Example, OpEntry, Random, expect, spread};
use crate::graph::{Call, DType, Derivative, Dispatch, Matrix, Op, Rows, ShapeError, TensorType};
use crate::kernel::Kernel;
use crate::kernel_params;

/// Inputs `x, z, chosen`.
#[derive(Clone, Copy, Debug)]
pub struct ReplaceColumns {
    /// Columns of the output: those of x at least.
    pub columns: usize,
}

/// Columns of a row that one workgroup is for.
const BLOCK: usize = 256;

impl Op for ReplaceColumns {
    fn name(&self) -> &'static str {
        "replace_columns"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        const OP: &str = "replace_columns";
        expect::count(OP, inputs, 3)?;
        let [x, z, chosen] = [inputs[0], inputs[1], inputs[2]];
        expect::dtype(OP, "x", x, DType::F32)?;
        expect::same(OP, "z", z, TensorType::f32(x.shape.rows, z.shape.columns))?;
        expect::same(OP, "chosen", chosen, TensorType::u32(Rows::Fixed(z.shape.columns), 1))?;
        if !(x.shape.columns..=x.shape.columns + z.shape.columns).contains(&self.columns) {
            let expected = format!("the {} of x and at most those of z behind them", x.shape.columns);
            return Err(ShapeError::new(OP, "number of columns", self.columns, expected));
        }
        Ok(vec![TensorType::f32(x.shape.rows, self.columns)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("logits are read, and not trained on")
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let [x, z, chosen] = inputs else { unreachable!("checked by infer") };
        let mut out = Matrix::zeros(outputs[0]);
        for t in 0..out.rows {
            out.row_mut(t)[..x.columns].copy_from_slice(x.row(t));
            (0..z.columns).for_each(|k| out.row_mut(t)[chosen.index(k, 0)] = z.row(t)[k]);
        }
        vec![out]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let out = &call.outputs[0];
        let params = Params {
            rows: out.rows as u32,
            columns: self.columns as u32,
            x_columns: call.inputs[0].columns() as u32,
            z_columns: call.inputs[1].columns() as u32,
        };
        vec![Dispatch::only(&KERNEL, call, params.bytes(), spread(out.rows * self.columns.div_ceil(BLOCK)))]
    }

    fn flops(&self, _: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        0
    }
}

kernel_params!(Params { rows: u32, columns: u32, x_columns: u32, z_columns: u32 });

/// One workgroup for [`BLOCK`] columns of a row.
static KERNEL: Kernel = Kernel::checked("replace_columns", Params::FIELDS);

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "replace_columns",
        kernels: vec![&KERNEL],
        examples: |random| {
            let sizes = [(1, 1, 1, 1), (3, 5, 2, 0), (9, 300, 7, 3), (130, 33, 4, 4), (1, 1000, 5, 2)];
            sizes.map(|size| example(random, size)).into()
        },
        tolerance: |_| 0.0,
    }
}

/// Rows, columns of x, columns of z, and how many of these stand behind x's.
fn example(random: &mut Random, (rows, columns, own, behind): (usize, usize, usize, usize)) -> Example {
    let within = (0..own - behind).map(|k| k * (columns / own));
    let chosen: Vec<f64> = within.chain(columns..columns + behind).map(|column| column as f64).collect();
    let inputs = vec![
        (TensorType::f32(Rows::Fixed(rows), columns), random.matrix([rows, columns], 1.0)),
        (TensorType::f32(Rows::Fixed(rows), own), random.matrix([rows, own], 1.0)),
        (TensorType::u32(Rows::Fixed(own), 1), Matrix::new([own, 1], chosen)),
    ];
    Example::new(ReplaceColumns { columns: columns + behind }, inputs)
}
