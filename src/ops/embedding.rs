//! `embedding`: the row of the embedding matrix that belongs to each token.
//!
//! `y[t] = weight[ids[t]]`
//!
//! | input | shape | |
//! |---|---|---|
//! | ids | `[rows, 1]` u32 | below `vocab` |
//! | weight | `[vocab, columns]`, in any format of weights ([`DType::is_weight`]) | frozen; may be split by rows over several bindings |
//!
//! **Gradient.** None: ids are integers, and the matrix is frozen.

use super::{Example, OpEntry, Random, expect, spread};
use crate::graph::{Bind, Call, DType, Derivative, Dispatch, Matrix, Op, Operand, Rows, ShapeError, TensorType};
use crate::kernel::algorithm::{Algorithm, Loads};
use crate::kernel::{Kernel, Needs};
use crate::kernel_params;

#[derive(Clone, Copy, Debug)]
pub struct Embedding;

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("embedding", inputs, 2)?;
        let [ids, weight] = [inputs[0], inputs[1]];
        expect::same("embedding", "ids", ids, TensorType::u32(ids.shape.rows, 1))?;
        expect::weight("embedding", "weight", weight)?;
        Ok(vec![TensorType::f32(ids.shape.rows, weight.shape.columns)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("ids have no gradient, and its matrix is frozen")
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let [ids, weight] = inputs else { unreachable!("checked by infer") };
        let mut y = Matrix::zeros([ids.rows, weight.columns]);
        for t in 0..ids.rows {
            y.row_mut(t).copy_from_slice(weight.row(ids.index(t, 0)));
        }
        vec![y]
    }

    /// One dispatch a part of the weight.
    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let (y, weight) = (&call.outputs[0], &call.inputs[1]);
        let Some(kernel) = ALGORITHM.with(weight.tensor.dtype) else {
            unreachable!("`infer` admits only weights, and an algorithm of elements takes every format of theirs")
        };
        let dispatch = |(part, held): (usize, std::ops::Range<usize>)| {
            let params = Params {
                rows: y.rows as u32,
                columns: y.columns() as u32,
                first_row: held.start as u32,
                part_rows: held.len() as u32,
            };
            Dispatch {
                kernel,
                constants: vec![],
                params: params.bytes(),
                bindings: vec![Bind::Input(0), Bind::InputPart(1, part), Bind::Output(0)],
                workgroups: spread(y.rows),
                work: 1.0,
            }
        };
        weight.parts().map(dispatch).collect()
    }

    fn flops(&self, _: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        0
    }

    /// Of the matrix, only the rows that are looked up.
    fn traffic(&self, inputs: &[Operand], outputs: &[Operand]) -> u64 {
        let looked_up = Operand { rows: outputs[0].rows, ..inputs[1].clone() };
        inputs[0].bytes() + looked_up.bytes() + outputs[0].bytes()
    }
}

kernel_params!(Params { rows: u32, columns: u32, first_row: u32, part_rows: u32 });

/// One workgroup a token.
static ALGORITHM: Algorithm = Algorithm {
    kernel: Kernel {
        name: "embedding",
        shader: "embedding",
        slots: &[],
        constants: &[],
        params: Params::FIELDS,
        needs: Needs::NONE,
        unchecked: false,
    },
    loads: Loads::Elements,
};

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "embedding",
        kernels: ALGORITHM.kernels().collect(),
        examples: |random| {
            DType::WEIGHTS
                .into_iter()
                .flat_map(|dtype| {
                    [(1, 1, 1), (7, 5, 6), (33, 11, 7), (130, 3, 64), (5, 9, 96), (6, 7, 1024)].map(|size| (dtype, size))
                })
                .filter(|&(dtype, (_, _, columns)): &(DType, (usize, usize, usize))| columns.is_multiple_of(dtype.block()))
                .map(|(dtype, (rows, vocab, columns))| example(random, dtype, rows, vocab, columns))
                .collect()
        },
        // Rows are copied. Values of LLM_INT8 alone are rounded twice, (q s) / 127, and a compiler may take s / 127 first.
        tolerance: |example| match example.inputs.iter().any(|(tensor, _)| tensor.dtype == DType::LLM_INT8) {
            true => 2.0 * f64::from(f32::EPSILON),
            false => 0.0,
        },
    }
}

fn example(random: &mut Random, dtype: DType, rows: usize, vocab: usize, columns: usize) -> Example {
    let ids = (0..rows).map(|_| random.below(vocab) as f64).collect();
    let inputs = vec![
        (TensorType::u32(Rows::Fixed(rows), 1), Matrix::new([rows, 1], ids)),
        (TensorType::new(Rows::Fixed(vocab), columns, dtype), random.stored([vocab, columns], 2.0, dtype)),
    ];
    Example::new(Embedding, inputs)
}
