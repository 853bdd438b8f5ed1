//! `matmul_together`: two or three products of one shape that share an operand, in one dispatch where there is a kernel for it.
//!
//! | layout | formula, for each i | x | w_i | out_i | used for |
//! |---|---|---|---|---|---|
//! | NT | `s x w_i^T` | `[m, k]` | `[n, k]` | `[m, n]` | adapters of layers with one input (q, k, v; gate, up): `u_i = x A_i^T` |
//! | TN | `s w_i^T x` | `[k, n]` | `[k, m]` | `[m, n]` | their gradients: `d_A_i = d_u_i^T x` |
//!
//! All are f32. No model is built from this op: [`crate::plan::fuse_adapters`] puts it in the place of [`Matmul`]s, when all gradient nodes are
//! there. Such products are of little work each, so that on a GPU their launches and the waits between them count.
//!
//! **Gradient.** None: the products have theirs before.

use super::{Matmul, launch};
use crate::graph::{Call, DType, Derivative, Dispatch, Matrix, Op, Rows, ShapeError, TensorType};
use crate::kernel::Layout;
use crate::ops::{Example, OpEntry, Random, expect};

const OP: &str = "matmul_together";

/// Inputs `x, w_0, w_1` and optionally `w_2`; an output for each w.
#[derive(Clone, Copy, Debug)]
pub struct MatmulTogether {
    /// NT or TN.
    pub layout: Layout,
    pub scale: f64,
}

impl MatmulTogether {
    /// The most products that there can be.
    pub const MOST: usize = 3;

    pub(super) fn product(&self) -> Matmul {
        Matmul { layout: self.layout, scale: self.scale }
    }

    /// Which inputs are a and b of a product.
    pub(super) fn operands(&self, product: usize) -> [usize; 2] {
        if self.layout == Layout::TN { [product + 1, 0] } else { [0, product + 1] }
    }
}

impl Op for MatmulTogether {
    fn name(&self) -> &'static str {
        "matmul_together"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        if inputs.len() != Self::MOST + 1 {
            expect::count(OP, inputs, Self::MOST)?;
        }
        if self.layout == Layout::NN {
            return Err(ShapeError::new(OP, "layout", "NN", "NT or TN"));
        }
        for &w in &inputs[1..] {
            expect::dtype(OP, "w", w, DType::F32)?;
            expect::same(OP, "w", w, inputs[1])?;
        }
        let of = |product| {
            let operands = self.operands(product).map(|input| inputs[input]);
            self.product().infer(&operands).map(|outputs| outputs[0]).map_err(|error| ShapeError { op: OP, ..error })
        };
        (0..inputs.len() - 1).map(of).collect()
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it stands in the place of products that are differentiated before")
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let of = |(product, &shape): (usize, &[usize; 2])| {
            self.product().reference(&self.operands(product).map(|input| inputs[input]), &[shape]).swap_remove(0)
        };
        outputs.iter().enumerate().map(of).collect()
    }

    /// What a kernel for three products writes the third to where there are two.
    fn scratch(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        if inputs.len() > Self::MOST { Vec::new() } else { vec![TensorType::f32(Rows::Fixed(1), 4)] }
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        launch::together(self, call)
    }

    fn flops(&self, inputs: &[[usize; 2]], outputs: &[[usize; 2]]) -> u64 {
        outputs.len() as u64 * self.product().flops(&self.operands(0).map(|input| inputs[input]), outputs)
    }
}

pub(in crate::ops) fn entry() -> OpEntry {
    OpEntry {
        name: OP,
        kernels: super::algorithms::together_kernels(),
        examples: |random| {
            // Layers with adapters of usual ranks, tails in all directions, sizes that are no multiple of 4, a k below that of any GPU's kernel.
            let sizes = [[33, 8, 192], [64, 16, 576], [7, 12, 260], [5, 3, 130], [130, 32, 128], [1, 8, 64]];
            let kinds = [Layout::NT, Layout::TN].into_iter().flat_map(|layout| [2, 3].map(|count| (layout, count)));
            kinds.flat_map(|(layout, count)| sizes.map(|size| example(random, layout, count, size))).collect()
        },
        // 1e-6 * sqrt(k): rounding grows with the length of the sums.
        tolerance: |example| 1e-6 * (example.inputs[0].1.rows.max(example.inputs[0].1.columns) as f64).sqrt(),
    }
}

/// `tokens` rows of x, adapters of this rank on layers with so many inputs.
fn example(random: &mut Random, layout: Layout, count: usize, [tokens, rank, inputs]: [usize; 3]) -> Example {
    let mut input =
        |[rows, columns]: [usize; 2]| (TensorType::f32(Rows::Fixed(rows), columns), random.matrix([rows, columns], 1.0));
    let x = input([tokens, inputs]);
    let w = if layout == Layout::TN { [tokens, rank] } else { [rank, inputs] };
    let inputs = std::iter::once(x).chain((0..count).map(|_| input(w))).collect();
    Example::new(MatmulTogether { layout, scale: 0.5 }, inputs)
}
