//! `embedding`: the row of the embedding matrix that belongs to each token.
//!
//! `y[t] = weight[ids[t]]`
//!
//! | input | shape | |
//! |---|---|---|
//! | ids | `[rows, 1]` u32 | one that is not below `vocab` gives zeros: its row is elsewhere ([`token_rows`](super::token_rows)) |
//! | weight | `[vocab, columns]`, in any format of weights ([`DType::is_weight`]) | may be split by rows over several bindings |
//!
//! **Gradient.** ids are integers. Of a weight that is trained, in f32: `d_weight[v] = sum over t with ids[t] = v of d_y[t]`,
//! [`EmbeddingBackward`].

use super::{Example, OpEntry, Random, expect, spread};
use crate::graph::{
    Bind, Call, Counts, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Operand, Rows, ShapeError, TensorType, Vjp,
};
use crate::kernel::algorithm::{Algorithm, Loads};
use crate::kernel::{Kernel, Needs};
use crate::kernel_params;

/// Inputs `ids, weight`.
#[derive(Clone, Copy, Debug)]
pub struct Embedding;

/// Inputs `d_y [tokens, columns]`, `ids [tokens, 1]` and, where only some rows of the matrix are meant, `chosen [rows, 1]`, strictly
/// increasing; output `d_weight [rows, columns]`: `d_weight[k] = sum over t with ids[t] = chosen[k] (or k) of d_y[t]`. Linear in `d_y`.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingBackward {
    /// Rows of the output.
    pub rows: usize,
}

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
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let [ids, weight] = inputs else { unreachable!("checked by infer") };
        let mut y = Matrix::zeros([ids.rows, weight.columns]);
        for t in (0..ids.rows).filter(|&t| ids.index(t, 0) < weight.rows) {
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
                is_last: (part + 1 == weight.part_starts.len()) as u32,
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

impl Differentiate for Embedding {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let (Some(d_y), true) = (vjp.d_outputs[0], vjp.wants(1)) else { return Ok(()) };
        let op = EmbeddingBackward { rows: vjp.graph[vjp.inputs[1]].tensor.shape.rows.max() };
        let name = vjp.d_name(1);
        let d_weight = vjp.graph.apply_one(op, &[d_y, vjp.inputs[0]], name)?;
        vjp.give(1, d_weight);
        Ok(())
    }
}

impl Op for EmbeddingBackward {
    fn name(&self) -> &'static str {
        "embedding_backward"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        const OP: &str = "embedding_backward";
        if inputs.len() != 3 {
            expect::count(OP, inputs, 2)?;
        }
        expect::dtype(OP, "d_y", inputs[0], DType::F32)?;
        expect::same(OP, "ids", inputs[1], TensorType::u32(inputs[0].shape.rows, 1))?;
        if let Some(&chosen) = inputs.get(2) {
            expect::same(OP, "chosen", chosen, TensorType::u32(Rows::Fixed(self.rows), 1))?;
        }
        Ok(vec![TensorType::f32(Rows::Fixed(self.rows), inputs[0].shape.columns)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it is a gradient itself, and is not differentiated again")
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let (d_y, ids) = (inputs[0], inputs[1]);
        let mut d_weight = Matrix::zeros(outputs[0]);
        for k in 0..d_weight.rows {
            let id = inputs.get(2).map_or(k, |chosen| chosen.index(k, 0));
            for t in (0..ids.rows).filter(|&t| ids.index(t, 0) == id) {
                d_weight.row_mut(k).iter_mut().zip(d_y.row(t)).for_each(|(sum, d)| *sum += d);
            }
        }
        vec![d_weight]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let (d_y, d_weight) = (&call.inputs[0], &call.outputs[0]);
        let has_chosen = call.inputs.len() == 3;
        let params = BackwardParams {
            rows: d_weight.rows as u32,
            columns: d_y.columns() as u32,
            tokens: d_y.rows as u32,
            has_chosen: has_chosen as u32,
        };
        // Where all rows are meant, the kernel does not read what is bound for the chosen ones.
        let chosen = Bind::Input(if has_chosen { 2 } else { 1 });
        let bindings = vec![Bind::Input(0), Bind::Input(1), chosen, Bind::Output(0)];
        let workgroups = spread(d_weight.rows);
        vec![Dispatch { kernel: &BACKWARD, constants: vec![], params: params.bytes(), bindings, workgroups, work: 1.0 }]
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        (inputs[0][0] * inputs[0][1]) as u64
    }
}

kernel_params!(Params { rows: u32, columns: u32, first_row: u32, part_rows: u32, is_last: u32 });
kernel_params!(BackwardParams { rows: u32, columns: u32, tokens: u32, has_chosen: u32 });

/// One workgroup a row of the matrix.
static BACKWARD: Kernel = Kernel::plain("embedding_backward", BackwardParams::FIELDS);

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
        // Rows are copied, and rows of one token added up. Values of LLM_INT8 alone are rounded twice, (q s) / 127, and a compiler may take s / 127 first.
        // A gradient is compared with ten times the bound; that rows of f32 are copied bit by bit, tests/properties/rows.rs says.
        tolerance: |example| match example.inputs.iter().any(|(tensor, _)| tensor.dtype == DType::LLM_INT8) {
            true => 2.0 * f64::from(f32::EPSILON),
            false if example.inputs[1].0.dtype == DType::F32 => f64::from(f32::EPSILON),
            false => 0.0,
        },
    }
}

pub(super) fn backward_entry() -> OpEntry {
    OpEntry {
        name: "embedding_backward",
        kernels: vec![&BACKWARD],
        examples: |random| {
            let sizes = [(1, 1, 1), (9, 4, 7), (70, 30, 65), (33, 5, 576), (260, 3, 64)];
            let mut example = |((tokens, vocab, columns), some): ((usize, usize, usize), bool)| {
                let ids = Matrix::new([tokens, 1], (0..tokens).map(|_| random.below(vocab) as f64).collect());
                let mut inputs = vec![
                    (TensorType::f32(Rows::Tokens(tokens + 3), columns), random.matrix([tokens, columns], 1.0)),
                    (TensorType::u32(Rows::Tokens(tokens + 3), 1), ids),
                ];
                // Every other row, and one of no token.
                let chosen: Vec<f64> = (0..=vocab).step_by(2).map(|id| id as f64).collect();
                let rows = if some { chosen.len() } else { vocab };
                if some {
                    inputs.push((TensorType::u32(Rows::Fixed(rows), 1), Matrix::new([rows, 1], chosen)));
                }
                let counts = Counts { tokens, supervised: 0 };
                Example { counts, ..Example::new(EmbeddingBackward { rows }, inputs) }
            };
            [false, true].into_iter().flat_map(|some| sizes.map(|size| (size, some))).map(&mut example).collect()
        },
        tolerance: |_| 1e-5,
    }
}

fn example(random: &mut Random, dtype: DType, rows: usize, vocab: usize, columns: usize) -> Example {
    // Also one that the matrix has no row for.
    let ids = (0..rows).map(|row| if row == 2 { vocab + 3 } else { random.below(vocab) } as f64).collect();
    let inputs = vec![
        (TensorType::u32(Rows::Fixed(rows), 1), Matrix::new([rows, 1], ids)),
        (TensorType::new(Rows::Fixed(vocab), columns, dtype), random.stored([vocab, columns], 2.0, dtype)),
    ];
    Example::new(Embedding, inputs)
}
