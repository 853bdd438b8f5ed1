//! How the numbers of a frozen weight rest in a file, and how they become f32.
//!
//! Every conversion here is exact: each stored value is read as the f32 that ggml and `gguf-py` compute for it.
//! The block formats of ggml hold 32 consecutive values of a row:
//!
//! | storage | bytes a block | layout | value |
//! |---|---|---|---|
//! | Q8_0 | 34 | d: f16, q: 32 x i8 | `d q` |
//! | Q4_0 | 18 | d: f16, 16 bytes of nibbles | `d (q - 8)` |
//! | Q4_1 | 20 | d: f16, m: f16, 16 bytes of nibbles | `d q + m` |
//!
//! The low nibble of byte j is value j of the block, the high nibble value j + 16.

use half::{bf16, f16};

/// Values in a block of the quantised storages.
const BLOCK: usize = 32;

/// The storage type of a tensor that graftling can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the field's own names: Q8_0 is what every tool calls it")]
pub enum Storage {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
}

impl Storage {
    /// All of them, from exact to coarse.
    pub const ALL: [Storage; 6] = [Self::F32, Self::BF16, Self::F16, Self::Q8_0, Self::Q4_1, Self::Q4_0];

    /// The name as the formats write it: `F32`, `BF16`, `Q4_1`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
        }
    }

    /// Values in a block: a row has a whole number of blocks.
    pub fn block_values(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 => BLOCK,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 2 + BLOCK,
            Self::Q4_0 => 2 + BLOCK / 2,
            Self::Q4_1 => 4 + BLOCK / 2,
        }
    }

    /// Bytes of `values` numbers, or `None` if they are no whole number of blocks (or do not fit a `u64`).
    pub fn bytes(self, values: u64) -> Option<u64> {
        let block = self.block_values() as u64;
        values.is_multiple_of(block).then_some(())?;
        (values / block).checked_mul(self.block_bytes() as u64)
    }

    /// Whether every value of these whole blocks is finite.
    pub(crate) fn is_finite(self, bytes: &[u8]) -> bool {
        // An exponent of nothing but ones is infinity or NaN. Without a branch, so that it is as fast as reading.
        let halves =
            |mask: u16| bytes.chunks_exact(2).fold(true, |all, b| all & (u16::from_le_bytes([b[0], b[1]]) & mask != mask));
        match self {
            Self::F32 => (bytes.chunks_exact(4))
                .fold(true, |all, b| all & (u32::from_le_bytes([b[0], b[1], b[2], b[3]]) & 0x7f80_0000 != 0x7f80_0000)),
            Self::F16 => halves(0x7c00),
            Self::BF16 => halves(0x7f80),
            Self::Q8_0 | Self::Q4_0 => bytes.chunks_exact(self.block_bytes()).all(|block| f16_at(block, 0).is_finite()),
            Self::Q4_1 => {
                (bytes.chunks_exact(self.block_bytes())).all(|block| f16_at(block, 0).is_finite() && f16_at(block, 2).is_finite())
            }
        }
    }

    /// Whether every value of these whole blocks is 0.
    pub(crate) fn is_zero(self, bytes: &[u8]) -> bool {
        let mut values = vec![0.0; self.block_values()];
        bytes.chunks_exact(self.block_bytes()).all(|block| {
            self.dequantise(block, &mut values);
            values.iter().all(|value| *value == 0.0)
        })
    }

    /// Reads `out.len()` values from `bytes`.
    ///
    /// `bytes` must hold exactly those values, which are whole blocks; callers have checked both against the tensor's
    /// shape, so a difference here is a defect of the program and surplus on either side is left alone.
    pub(crate) fn dequantise(self, bytes: &[u8], out: &mut [f32]) {
        debug_assert_eq!(self.bytes(out.len() as u64), Some(bytes.len() as u64));
        let blocks = bytes.chunks_exact(self.block_bytes()).zip(out.chunks_exact_mut(self.block_values()));
        match self {
            Self::F32 => blocks.for_each(|(b, out)| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Self::F16 => blocks.for_each(|(b, out)| out[0] = f16_at(b, 0)),
            Self::BF16 => blocks.for_each(|(b, out)| out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            Self::Q8_0 => blocks.for_each(|(b, out)| {
                let d = f16_at(b, 0);
                for (out, &q) in out.iter_mut().zip(&b[2..]) {
                    *out = d * f32::from(q as i8);
                }
            }),
            Self::Q4_0 => blocks.for_each(|(b, out)| {
                let d = f16_at(b, 0);
                nibbles(&b[2..], out, |q| d * (f32::from(q) - 8.0));
            }),
            Self::Q4_1 => blocks.for_each(|(b, out)| {
                let (d, m) = (f16_at(b, 0), f16_at(b, 2));
                nibbles(&b[4..], out, |q| d * f32::from(q) + m);
            }),
        }
    }
}

fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Low nibbles are the first half of the block, high nibbles the second.
fn nibbles(packed: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(BLOCK / 2);
    for ((byte, low), high) in packed.iter().zip(low).zip(high) {
        *low = value(byte & 0x0f);
        *high = value(byte >> 4);
    }
}
