//! `matmul_low_rank`: a product with a frozen weight and, added on the way out, the low-rank term of its adapter.
//!
//! | layout | formula | a | b | u | v | out |
//! |---|---|---|---|---|---|---|
//! | NT | `a b^T + s u v^T + c` | `[m, k]` | `[n, k]` | `[m, r]` | `[n, r]` | `[m, n]` |
//! | NN | `a b + s u v + c` | `[m, k]` | `[k, n]` | `[m, r]` | `[r, n]` | `[m, n]` |
//!
//! NT is a layer with LoRA, `x W^T + s u B^T` with `u = x A^T`; NN is its input gradient, `d_y W + d_u A`. No model is built from this op:
//! [`crate::plan::fuse`] puts it in place of two [`Matmul`]s, when all gradient nodes are there. What is saved is a pass over out, which
//! for a small rank costs more than its arithmetic. Kernels that cannot add the term run as two.
//!
//! **Gradient.** That of the two products.

use super::{Matmul, launch, sizes};
use crate::graph::{Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Rows, ShapeError, TensorType, Vjp};
use crate::kernel::Layout;
use crate::ops::{Example, OpEntry, Random, expect};

/// `op(a, b) + scale * op(u, v) (+ c)`; inputs `a, b, u, v` and optionally `c`.
#[derive(Clone, Copy, Debug)]
pub struct MatmulLowRank {
    /// NT or NN.
    pub layout: Layout,
    /// Factor of the low-rank term.
    pub scale: f64,
}

impl MatmulLowRank {
    /// The product, and that of the low-rank term.
    pub(super) fn products(&self) -> [Matmul; 2] {
        [1.0, self.scale].map(|scale| Matmul { layout: self.layout, scale })
    }
}

impl Op for MatmulLowRank {
    fn name(&self) -> &'static str {
        "matmul_low_rank"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        const OP: &str = "matmul_low_rank";
        if inputs.len() != 5 {
            expect::count(OP, inputs, 4)?;
        }
        if self.layout == Layout::TN {
            return Err(ShapeError::new(OP, "layout", "TN", "NT or NN"));
        }
        let [product, term] = self.products();
        let here = |error| ShapeError { op: OP, ..error };
        let out = product.infer(&[&inputs[..2], &inputs[4..]].concat()).map_err(here)?;
        expect::dtype(OP, "v", inputs[3], DType::F32)?;
        expect::same(OP, "u v", term.infer(&inputs[2..4]).map_err(here)?[0], out[0])?;
        Ok(out)
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let [product, term] = self.products();
        let sum = product.reference(&[&inputs[..2], &inputs[4..]].concat(), outputs);
        term.reference(&[inputs[2], inputs[3], &sum[0]], outputs)
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        launch::low_rank(self, call)
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        let of = |a, b| sizes(self.layout, a, b).iter().map(|&n| n as u64).product::<u64>() * 2;
        of(inputs[0], inputs[1]) + of(inputs[2], inputs[3])
    }
}

impl Differentiate for MatmulLowRank {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let [product, term] = self.products();
        product.vjp_of(vjp, [0, 1])?;
        term.vjp_of(vjp, [2, 3])?;
        if let (Some(d), 5) = (vjp.d_outputs[0], vjp.inputs.len())
            && vjp.wants(4)
        {
            vjp.give(4, d);
        }
        Ok(())
    }
}

pub(in crate::ops) fn entry() -> OpEntry {
    OpEntry {
        name: "matmul_low_rank",
        kernels: super::algorithms::low_rank_kernels(),
        examples: |random| {
            let mut examples = Vec::new();
            // Ranks 8, 4 and 16 in tiles and their tails, one that is no multiple of 4, a k that ends within a tile, a single row.
            let sizes = [
                [17, 64, 32, 8],
                [16, 96, 96, 4],
                [5, 32, 64, 16],
                [40, 160, 32, 8],
                [7, 33, 35, 3],
                [9, 64, 64, 2],
                [33, 68, 36, 8],
                [20, 64, 100, 12],
                [1, 96, 64, 8],
                // Whole blocks of every format.
                [24, 256, 512, 8],
                [1, 256, 256, 4],
            ];
            for (index, size) in sizes.into_iter().enumerate() {
                for dtype in DType::WEIGHTS {
                    for layout in [Layout::NT, Layout::NN] {
                        examples.extend(example(random, layout, size, dtype, index % 2 == 0));
                    }
                }
            }
            examples
        },
        // 1e-6 * sqrt(k): rounding grows with the length of the sums.
        tolerance: |example| 1e-6 * ((example.inputs[0].1.columns + example.inputs[2].1.columns) as f64).sqrt(),
    }
}

/// None where rows of b would not be whole blocks.
fn example(random: &mut Random, layout: Layout, [m, n, k, r]: [usize; 4], dtype: DType, addend: bool) -> Option<Example> {
    let (b, v) = match layout {
        Layout::NN => ([k, n], [r, n]),
        _ => ([n, k], [n, r]),
    };
    b[1].is_multiple_of(dtype.block()).then_some(())?;
    let mut input = |[rows, columns]: [usize; 2], dtype| {
        (TensorType::new(Rows::Fixed(rows), columns, dtype), random.stored([rows, columns], 1.0, dtype))
    };
    let mut inputs = vec![input([m, k], DType::F32), input(b, dtype), input([m, r], DType::F32), input(v, DType::F32)];
    if addend {
        inputs.push(input([m, n], DType::F32));
    }
    Some(Example::new(MatmulLowRank { layout, scale: 0.5 }, inputs))
}
