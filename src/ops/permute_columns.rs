//! `permute_columns`: the columns of a matrix in another order, that in which the columns of a weight rest whose groups are not of
//! columns that follow each other (GPTQ with `desc_act`): `W x` is the sum over all columns, in whatever order both have them.
//!
//! `y[t, k] = x[t, order[k]]`
//!
//! | input | shape | |
//! |---|---|---|
//! | x | `[T, K]` f32 | |
//! | order | `[1, K]` u32 | each number below K once |
//! | inverse | `[1, K]` u32 | `inverse[order[k]] = k` |
//!
//! **Gradient.** `d_x[t, order[k]] = d_y[t, k]`, which is `d_x[t, j] = d_y[t, inverse[j]]`: the same op with the two orders changed round.

use super::{Example, OpEntry, Random, expect, spread};
use crate::graph::{
    Bind, Call, Counts, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Rows, ShapeError, TensorType, Vjp,
};
use crate::kernel::Kernel;
use crate::kernel_params;

/// Inputs `x, order, inverse`.
#[derive(Clone, Copy, Debug)]
pub struct PermuteColumns;

impl Op for PermuteColumns {
    fn name(&self) -> &'static str {
        "permute_columns"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("permute_columns", inputs, 3)?;
        expect::dtype("permute_columns", "x", inputs[0], DType::F32)?;
        let order = TensorType::u32(Rows::Fixed(1), inputs[0].shape.columns);
        expect::same("permute_columns", "order", inputs[1], order)?;
        expect::same("permute_columns", "inverse", inputs[2], order)?;
        Ok(vec![inputs[0]])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let [x, order, _] = inputs else { unreachable!("checked by infer") };
        let mut y = Matrix::zeros(outputs[0]);
        for t in 0..x.rows {
            for k in 0..x.columns {
                y.row_mut(t)[k] = x.row(t)[order.index(0, k)];
            }
        }
        vec![y]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let y = &call.outputs[0];
        let params = Params { rows: y.rows as u32, columns: y.columns() as u32 };
        vec![Dispatch {
            kernel: &KERNEL,
            constants: vec![],
            params: params.bytes(),
            bindings: vec![Bind::Input(0), Bind::Input(1), Bind::Output(0)],
            workgroups: spread(y.rows),
            work: 1.0,
        }]
    }

    fn flops(&self, _: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        0
    }
}

impl Differentiate for PermuteColumns {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let (Some(d_y), true) = (vjp.d_outputs[0], vjp.wants(0)) else { return Ok(()) };
        let name = vjp.d_name(0);
        let d_x = vjp.graph.apply_one(PermuteColumns, &[d_y, vjp.inputs[2], vjp.inputs[1]], name)?;
        vjp.give(0, d_x);
        Ok(())
    }
}

kernel_params!(Params { rows: u32, columns: u32 });

/// One workgroup a row.
pub static KERNEL: Kernel = Kernel::checked("permute_columns", Params::FIELDS);

/// A random order of `columns` columns, and its inverse.
fn orders(random: &mut Random, columns: usize) -> [Matrix; 2] {
    let mut order: Vec<usize> = (0..columns).collect();
    for at in (1..columns).rev() {
        order.swap(at, random.below(at + 1));
    }
    let mut inverse = vec![0.0; columns];
    for (at, &column) in order.iter().enumerate() {
        inverse[column] = at as f64;
    }
    [order.into_iter().map(|column| column as f64).collect(), inverse].map(|order: Vec<f64>| Matrix::new([1, columns], order))
}

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "permute_columns",
        kernels: vec![&KERNEL],
        examples: |random| {
            let example = |(rows, columns)| {
                let [order, inverse] = orders(random, columns);
                let of_order = TensorType::u32(Rows::Fixed(1), columns);
                let x = (TensorType::f32(Rows::Tokens(rows + 2), columns), random.matrix([rows, columns], 1.0));
                let inputs = vec![x, (of_order, order), (of_order, inverse)];
                Example { counts: Counts { tokens: rows, supervised: 0 }, ..Example::new(PermuteColumns, inputs) }
            };
            [(1, 1), (9, 7), (33, 65), (5, 576)].map(example).into()
        },
        tolerance: |_| 0.0,
    }
}
