//! `token_rows`: rows of their own for some tokens, in the place of what the embedding gives them.
//!
//! `z[t] = rows[k]` where `ids[t] = chosen[k]`, and `y[t]` where the token is none of the chosen ones.
//!
//! The matrix of the embedding stays as it is, in its format. It need not have a row for a chosen token.
//!
//! | input | shape | |
//! |---|---|---|
//! | y | `[tokens, columns]` f32 | what the embedding gives |
//! | ids | `[tokens, 1]` u32 | |
//! | rows | `[own, columns]` f32 | |
//! | chosen | `[own, 1]` u32 | strictly increasing |
//!
//! **Gradient.** `d_rows[k] = sum over t with ids[t] = chosen[k] of d_z[t]` ([`EmbeddingBackward`]), and `d_y` is `d_z` with zeros for the
//! chosen tokens: the same op with rows of zeros.

use super::embedding::EmbeddingBackward;
use super::scale::Scale;
use super::{Example, OpEntry, Random, expect, spread};
use crate::graph::{Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Operand, Rows, ShapeError, TensorType, Vjp};
use crate::kernel::Kernel;
use crate::kernel_params;

/// Inputs `y, ids, rows, chosen`.
#[derive(Clone, Copy, Debug)]
pub struct TokenRows;

impl Op for TokenRows {
    fn name(&self) -> &'static str {
        "token_rows"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        const OP: &str = "token_rows";
        expect::count(OP, inputs, 4)?;
        let [y, ids, rows, chosen] = [inputs[0], inputs[1], inputs[2], inputs[3]];
        expect::dtype(OP, "y", y, DType::F32)?;
        expect::same(OP, "ids", ids, TensorType::u32(y.shape.rows, 1))?;
        expect::same(OP, "rows", rows, TensorType::f32(rows.shape.rows, y.shape.columns))?;
        expect::same(OP, "chosen", chosen, TensorType::u32(rows.shape.rows, 1))?;
        Ok(vec![y])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let [y, ids, rows, chosen] = inputs else { unreachable!("checked by infer") };
        let mut z = Matrix::new([y.rows, y.columns], y.data.clone());
        for t in 0..y.rows {
            if let Some(k) = (0..chosen.rows).find(|&k| chosen.index(k, 0) == ids.index(t, 0)) {
                z.row_mut(t).copy_from_slice(rows.row(k));
            }
        }
        vec![z]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let z = &call.outputs[0];
        let params = Params { tokens: z.rows as u32, columns: z.columns() as u32, rows: call.inputs[2].rows as u32 };
        vec![Dispatch::only(&KERNEL, call, params.bytes(), spread(z.rows))]
    }

    fn flops(&self, _: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        0
    }

    /// A row is read either from y or from rows.
    fn traffic(&self, inputs: &[Operand], outputs: &[Operand]) -> u64 {
        inputs[1].bytes() + inputs[3].bytes() + 2 * outputs[0].bytes()
    }
}

impl Differentiate for TokenRows {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let Some(d_z) = vjp.d_outputs[0] else { return Ok(()) };
        let [ids, rows, chosen] = [vjp.inputs[1], vjp.inputs[2], vjp.inputs[3]];
        if vjp.wants(0) {
            let name = vjp.d_name(0);
            let zeros = vjp.graph.apply_one(Scale { factor: 0.0 }, &[rows], format!("{name}.zeros"))?;
            let d_y = vjp.graph.apply_one(TokenRows, &[d_z, ids, zeros, chosen], name)?;
            vjp.give(0, d_y);
        }
        if vjp.wants(2) {
            let op = EmbeddingBackward { rows: vjp.graph[rows].tensor.shape.rows.max() };
            let name = vjp.d_name(2);
            let d_rows = vjp.graph.apply_one(op, &[d_z, ids, chosen], name)?;
            vjp.give(2, d_rows);
        }
        Ok(())
    }
}

kernel_params!(Params { tokens: u32, columns: u32, rows: u32 });

/// One workgroup a token.
static KERNEL: Kernel = Kernel::checked("token_rows", Params::FIELDS);

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "token_rows",
        kernels: vec![&KERNEL],
        examples: |random| {
            let sizes = [(1, 1, 1, 1), (9, 4, 2, 7), (70, 30, 11, 65), (33, 5, 5, 576), (20, 9, 3, 64)];
            sizes.map(|size| example(random, size)).into()
        },
        // Rows are copied; the sums of a gradient are compared with ten times the bound.
        tolerance: |_| 1e-6,
    }
}

/// `tokens`, ids that there are, how many of them have rows of their own, columns.
fn example(random: &mut Random, (tokens, vocabulary, own, columns): (usize, usize, usize, usize)) -> Example {
    let step = vocabulary / own;
    let chosen: Vec<f64> = (0..own).map(|k| (k * step + step - 1) as f64).collect();
    // The first token has a row of its own, so that each gradient is there.
    let ids: Vec<f64> = (0..tokens).map(|t| if t == 0 { chosen[0] } else { random.below(vocabulary) as f64 }).collect();
    let inputs = vec![
        (TensorType::f32(Rows::Fixed(tokens), columns), random.matrix([tokens, columns], 1.0)),
        (TensorType::u32(Rows::Fixed(tokens), 1), Matrix::new([tokens, 1], ids)),
        (TensorType::f32(Rows::Fixed(own), columns), random.matrix([own, columns], 1.0)),
        (TensorType::u32(Rows::Fixed(own), 1), Matrix::new([own, 1], chosen)),
    ];
    Example::new(TokenRows, inputs)
}
