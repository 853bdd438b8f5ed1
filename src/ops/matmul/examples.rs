//! Sizes that the property suite multiplies: 1, primes, tile sizes and their neighbours, LoRA's narrow products.

use super::{Matmul, kernels};
use crate::graph::{DType, Rows, TensorType};
use crate::kernel::Layout;
use crate::ops::{Example, OpEntry, Random};

const SIZES: [[usize; 3]; 21] = [
    [1, 1, 1],
    [3, 5, 7],
    [1, 64, 64],
    [2, 33, 96],
    [16, 32, 4],
    [17, 32, 8],
    [15, 31, 20],
    [65, 192, 64],
    [33, 8, 576],
    [33, 576, 8],
    [127, 68, 36],
    [130, 260, 132],
    // Every kernel of every family: few rows, few columns, k with a tail where it may have one.
    [3, 64, 256],
    [4, 4, 8],
    [8, 100, 130],
    [100, 8, 130],
    [16, 100, 35],
    [100, 16, 35],
    // Whole blocks of quantised weights, and tails in all else.
    [101, 96, 160],
    // A k that CPU drivers take in pieces.
    [9, 64, 4108],
    // One whose k GPUs may split.
    [18, 32, 2112],
];

/// Sizes for the formats that have the same kernels as others but for the loader: one row, few, many, an odd number of columns, few columns,
/// with tails in all but what is a whole number of blocks.
const SIZES_OF_BLOCKS: [[usize; 3]; 7] =
    [[1, 256, 512], [7, 512, 256], [40, 256, 768], [67, 288, 256], [2, 33, 256], [33, 8, 768], [18, 256, 2048]];

/// Formats that are multiplied in all [`SIZES`].
const IN_ALL_SIZES: [DType; 5] = [DType::F32, DType::BF16, DType::F16, DType::Q8_0, DType::Q4_1];

fn example(random: &mut Random, layout: Layout, [m, n, k]: [usize; 3], dtype: DType, addend: bool) -> Example {
    let (a_shape, b_shape) = match layout {
        Layout::NT => ([m, k], [n, k]),
        Layout::NN => ([m, k], [k, n]),
        Layout::TN => ([k, m], [k, n]),
    };
    let mut input = |[rows, columns]: [usize; 2], dtype| {
        (TensorType::new(Rows::Fixed(rows), columns, dtype), random.stored([rows, columns], 1.0, dtype))
    };
    let mut inputs = vec![input(a_shape, DType::F32), input(b_shape, dtype)];
    if addend {
        inputs.push(input([m, n], DType::F32));
    }
    Example::new(Matmul { layout, scale: if addend { 0.5 } else { 1.0 } }, inputs)
}

pub(in crate::ops) fn entry() -> OpEntry {
    OpEntry {
        name: "matmul",
        kernels: kernels(),
        examples: |random| {
            let mut examples = Vec::new();
            for (index, size) in SIZES.into_iter().enumerate() {
                let addend = index % 2 == 1;
                let [_, n, k] = size;
                for dtype in IN_ALL_SIZES {
                    for (layout, row) in [(Layout::NT, k), (Layout::NN, n)] {
                        if row.is_multiple_of(dtype.block()) {
                            examples.push(example(random, layout, size, dtype, addend));
                        }
                    }
                }
                examples.push(example(random, Layout::TN, size, DType::F32, addend));
            }
            for (index, size) in SIZES_OF_BLOCKS.into_iter().enumerate() {
                for dtype in DType::WEIGHTS.into_iter().filter(|dtype| !IN_ALL_SIZES.contains(dtype)) {
                    for (layout, row) in [(Layout::NT, size[2]), (Layout::NN, size[1])] {
                        if row.is_multiple_of(dtype.block()) {
                            examples.push(example(random, layout, size, dtype, index % 2 == 1));
                        }
                    }
                }
            }
            examples
        },
        // 1e-6 * sqrt(k): rounding grows with the length of the sums.
        tolerance: |example| 1e-6 * (example.inputs[0].1.rows.max(example.inputs[0].1.columns) as f64).sqrt(),
    }
}
