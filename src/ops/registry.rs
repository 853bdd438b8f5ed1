//! Every op, one line each. The property suite walks this table, so an op is tested by standing here.

use crate::graph::{Counts, Matrix, Op, TensorType};
use crate::kernel::Kernel;
use crate::storage::{DType, Offset, Scale, rounded};
use std::sync::Arc;

/// An op with inputs that suit it.
#[derive(Clone, Debug)]
pub struct Example {
    pub op: Arc<dyn Op>,
    pub inputs: Vec<(TensorType, Matrix)>,
    pub counts: Counts,
}

impl Example {
    /// An example without dynamic rows: every matrix is as large as its type says.
    pub fn new(op: impl Op + 'static, inputs: Vec<(TensorType, Matrix)>) -> Self {
        Self { op: Arc::new(op), inputs, counts: Counts::default() }
    }
}

/// What the property suite knows of an op.
pub struct OpEntry {
    pub name: &'static str,
    /// Every kernel that the op may launch.
    pub kernels: Vec<&'static Kernel>,
    /// Examples of different sizes, drawn from a seed.
    pub examples: fn(&mut Random) -> Vec<Example>,
    /// Largest allowed distance of the GPU from the f64 reference, relative to the largest reference magnitude of an output
    /// (design section 9), for an example.
    pub tolerance: fn(&Example) -> f64,
}

/// All ops.
pub fn registry() -> Vec<OpEntry> {
    use super::*;
    vec![
        accumulate::entry(),
        activate::entry(),
        activate::backward_entry(),
        adamw::entry(),
        add::entry(),
        add_bias::entry(),
        add_expert_bias::entry(),
        attention::entry(),
        attention::backward_query_entry(),
        attention::backward_key_value_entry(),
        cache_rows::entry(),
        column_sums::entry(),
        copy::entry(),
        dora_norm::entry(),
        dropout::entry(),
        embedding::entry(),
        embedding::backward_entry(),
        expert_rows::to_entry(),
        expert_rows::from_entry(),
        expert_rows::dots_entry(),
        expert_shares::entry(),
        expert_shares::backward_entry(),
        gate_rows::entry(),
        gate_rows::backward_entry(),
        gather_rows::entry(),
        gather_rows::scatter_entry(),
        global_norm::entry(),
        glu::entry(),
        glu::backward_entry(),
        linear_cross_entropy::entry(),
        load_balancing_loss::entry(),
        load_balancing_loss::backward_entry(),
        matmul::entry(),
        matmul::low_rank_entry(),
        matmul::experts_entry(),
        matmul::together_entry(),
        multiply_add::entry(),
        permute_columns::entry(),
        replace_columns::entry(),
        rms_norm::entry(),
        rms_norm::backward_entry(),
        rope::entry(),
        route::entry(),
        route::backward_entry(),
        scale::entry(),
        scale_columns::entry(),
        scale_columns::dots_entry(),
        softcap::entry(),
        softcap::backward_entry(),
        sort_by_expert::entry(),
        token_rows::entry(),
    ]
}

/// A small deterministic generator for examples (splitmix64, Steele et al. 2014).
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0 .. bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }

    /// Uniform in `low ..= high`.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// Uniform in `-1 .. 1`, a value that f32 holds exactly, so that both executors start from the same numbers.
    pub fn uniform(&mut self) -> f64 {
        f64::from(((self.bits() >> 40) as f32 / (1u32 << 23) as f32) - 1.0)
    }

    /// As [`Random::matrix`], of what `dtype` holds: rounded, or random blocks of it.
    pub fn stored(&mut self, shape: [usize; 2], scale: f64, dtype: DType) -> Matrix {
        if dtype.block() > 1 {
            return Matrix::of_blocks(shape, dtype, self.blocks(dtype, shape[0] * shape[1], scale));
        }
        let values: Vec<f32> = self.matrix(shape, scale).data.iter().map(|&value| value as f32).collect();
        Matrix::new(shape, rounded(&values, dtype).into_iter().map(f64::from).collect())
    }

    /// Blocks of a file, of any bits but for the scales, which are below `scale / 16`.
    fn blocks(&mut self, dtype: DType, values: usize, scale: f64) -> Vec<u8> {
        let format = dtype.format();
        let mut bytes: Vec<u8> = (0..values / format.block * format.block_bytes).map(|_| self.below(256) as u8).collect();
        for block in bytes.chunks_exact_mut(format.block_bytes) {
            for &place in format.scales {
                let number = self.uniform() * scale / 16.0;
                match place {
                    Scale::F16(at) => block[at..at + 2].copy_from_slice(&half::f16::from_f64(number).to_le_bytes()),
                    Scale::F32(at) => block[at..at + 4].copy_from_slice(&(number as f32).to_le_bytes()),
                    Scale::BF16(at) => block[at..at + 2].copy_from_slice(&half::bf16::from_f64(number).to_le_bytes()),
                    Scale::E8(at) => block[at] = 118 + self.below(8) as u8,
                    Scale::WithZeroPoint(at, offset) => {
                        let (scale, zeros) = match offset {
                            Offset::ZeroPointF16 => (half::f16::from_f64(number).to_f32(), 16),
                            Offset::ZeroPointBF16 => (half::bf16::from_f64(number).to_f32(), 16),
                            _ => (number as f32, 256),
                        };
                        let word = scale.to_bits() & !0x1fff | self.below(zeros) as u32;
                        block[at..at + 4].copy_from_slice(&word.to_le_bytes());
                    }
                    // Any number; the code of all ones is none.
                    Scale::E4M3s(at, count) => {
                        block[at..at + count].iter_mut().filter(|code| **code & 0x7f == 0x7f).for_each(|code| *code ^= 1)
                    }
                }
            }
        }
        bytes
    }

    /// A matrix of [`Random::uniform`] values times `scale`, rounded to f32.
    pub fn matrix(&mut self, shape: [usize; 2], scale: f64) -> Matrix {
        let data = (0..shape[0] * shape[1]).map(|_| f64::from((self.uniform() * scale) as f32)).collect();
        Matrix::new(shape, data)
    }
}
