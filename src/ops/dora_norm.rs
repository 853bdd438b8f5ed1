//! `dora_norm`: one over the length of each row of an adapted weight: `out[o] = 1 / || W[o, :] + scale (B A)[o, :] ||`.
//!
//! | input | shape | |
//! |---|---|---|
//! | a | `[r, in]` f32 | |
//! | weight | `[rows, in]`, in any of [`DType::WEIGHTS`] | frozen; may be split by rows over several bindings |
//! | b | `[rows, r]` f32 | |
//! | out | `[1, rows]` f32 | |
//!
//! The row is made element by element and never kept, so that the weight may rest in any format. A row of zeros gives 0 and not infinity.
//!
//! **Gradient.** None: in DoRA (Liu et al. 2024, arXiv 2402.09353, section 4.3) the norm counts as a constant.

use super::{Example, OpEntry, Random, expect, spread};
use crate::graph::{Bind, Call, DType, Derivative, Dispatch, Matrix, Op, Rows, ShapeError, TensorType};
use crate::kernel::algorithm::{Algorithm, Loads};
use crate::kernel::{Kernel, Needs};
use crate::kernel_params;

/// See the [module](self).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct DoraNorm {
    /// LoRA's `s`.
    pub scale: f64,
}

impl Op for DoraNorm {
    fn name(&self) -> &'static str {
        "dora_norm"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        const OP: &str = "dora_norm";
        expect::count(OP, inputs, 3)?;
        let [a, weight, b] = [inputs[0], inputs[1], inputs[2]];
        expect::weight(OP, "weight", weight)?;
        expect::dtype(OP, "a", a, DType::F32)?;
        expect::columns(OP, "a", a, weight.shape.columns)?;
        let (Rows::Fixed(r), Rows::Fixed(rows)) = (a.shape.rows, weight.shape.rows) else {
            return Err(ShapeError::new(OP, "a and weight", format!("{a} and {weight}"), "fixed numbers of rows"));
        };
        expect::same(OP, "b", b, TensorType::f32(Rows::Fixed(rows), r))?;
        Ok(vec![TensorType::f32(Rows::Fixed(1), rows)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("DoRA takes the norm for a constant")
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let [a, weight, b] = inputs else { unreachable!("checked by infer") };
        let inverse = |o: usize| {
            let element = |i: usize| {
                let update: f64 = (0..a.rows).map(|k| b.row(o)[k] * a.row(k)[i]).sum();
                weight.row(o)[i] + self.scale * update
            };
            let squares: f64 = (0..weight.columns).map(|i| element(i).powi(2)).sum();
            if squares > 0.0 { squares.sqrt().recip() } else { 0.0 }
        };
        vec![Matrix::new([1, weight.rows], (0..weight.rows).map(inverse).collect())]
    }

    /// One dispatch a part of the weight.
    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let (a, weight) = (&call.inputs[0], &call.inputs[1]);
        let Some(kernel) = ALGORITHM.with(weight.tensor.dtype) else {
            unreachable!("`infer` admits only weights, and an algorithm of elements takes every format of theirs")
        };
        let dispatch = |(part, held): (usize, std::ops::Range<usize>)| {
            let params = Params {
                rows: held.len() as u32,
                columns: weight.columns() as u32,
                rank: a.rows as u32,
                first_row: held.start as u32,
                scale: self.scale as f32,
            };
            Dispatch {
                kernel,
                constants: vec![],
                params: params.bytes(),
                bindings: vec![Bind::Input(0), Bind::InputPart(1, part), Bind::Input(2), Bind::Output(0)],
                workgroups: spread(held.len()),
                work: held.len() as f64,
            }
        };
        weight.parts().map(dispatch).collect()
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        2 * (inputs[1][0] * inputs[1][1]) as u64 * (inputs[0][0] as u64 + 1)
    }
}

kernel_params!(Params { rows: u32, columns: u32, rank: u32, first_row: u32, scale: f32 });

/// One workgroup a row.
static ALGORITHM: Algorithm = Algorithm {
    kernel: Kernel {
        name: "dora_norm",
        shader: "dora_norm",
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
        name: "dora_norm",
        kernels: ALGORITHM.kernels().collect(),
        examples: |random| {
            let sizes: [[usize; 3]; 5] = [[1, 1, 1], [7, 5, 3], [66, 70, 8], [5, 96, 2], [9, 256, 4]];
            DType::WEIGHTS
                .into_iter()
                .flat_map(|dtype| sizes.map(|size| (dtype, size)))
                .filter(|(dtype, [_, columns, _])| columns.is_multiple_of(dtype.block()))
                .map(|(dtype, size)| example(random, dtype, size))
                .collect()
        },
        // A sum of `in` squares, of which the root is taken.
        tolerance: |example| 1e-6 * (example.inputs[1].1.columns as f64).sqrt(),
    }
}

fn example(random: &mut Random, dtype: DType, [rows, columns, r]: [usize; 3]) -> Example {
    let inputs = vec![
        (TensorType::f32(Rows::Fixed(r), columns), random.matrix([r, columns], 1.0)),
        (TensorType::new(Rows::Fixed(rows), columns, dtype), random.stored([rows, columns], 1.0, dtype)),
        (TensorType::f32(Rows::Fixed(rows), r), random.matrix([rows, r], 1.0)),
    ];
    Example::new(DoraNorm { scale: 0.5 }, inputs)
}
