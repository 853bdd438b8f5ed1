//! Q4_1: 32 values `d q + m` with a scale d, an offset m and codes q of 4 bits.
//!
//! | | bytes | |
//! |---|---|---|
//! | file, a block of 32 | 20 | d: f16, m: f16, 16 bytes of nibbles |
//! | device, a group of 256 | 160 | 8 x (d, m: f16), 256 x q |

use super::planes::{BLOCK, f16_at, ggml_nibbles, put_f16, put_ggml_nibbles, put_nibbles};
use super::{Format, Scale};

pub(super) static FORMAT: Format = Format {
    name: "Q4_1",
    block: BLOCK,
    block_bytes: 4 + BLOCK / 2,
    group: 8 * BLOCK,
    group_bytes: 160,
    scales: &[Scale::F16(0), Scale::F16(2)],
    dequantise: |block, out| {
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        for (out, q) in out.iter_mut().zip(ggml_nibbles(&block[4..])) {
            *out = d * f32::from(q) + m;
        }
    },
    pack: |blocks, group| {
        for (at, block) in blocks.chunks_exact(4 + BLOCK / 2).enumerate() {
            group[4 * at..][..4].copy_from_slice(&block[..4]);
            put_nibbles(&ggml_nibbles(&block[4..]), &mut group[32 + 16 * at..]);
        }
    },
    quantise: Some(|values, block| {
        // The least value gets code 0, the largest 15; codes are of scale and offset as they are kept.
        let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(low, high), &value| (low.min(value), high.max(value)));
        put_f16((high - low) / 15.0, block, 0);
        put_f16(low, block, 2);
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        let code = |value: f32| if d == 0.0 { 0 } else { ((value - m) / d).round().clamp(0.0, 15.0) as u8 };
        put_ggml_nibbles(&std::array::from_fn(|at| code(values[at])), &mut block[4..]);
    }),
};
