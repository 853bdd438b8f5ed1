//! Q8_0: 32 values `d q` with a scale d and codes q of 8 bits.
//!
//! | | bytes | |
//! |---|---|---|
//! | file, a block of 32 | 34 | d: f16, q: 32 x i8 |
//! | device, a group of 256 | 288 | 8 x d: f32, 256 x q |

use super::planes::{BLOCK, f16_at, put_f16};
use super::{Format, Scale};

pub(super) static FORMAT: Format = Format {
    name: "Q8_0",
    block: BLOCK,
    block_bytes: 2 + BLOCK,
    group: 8 * BLOCK,
    group_bytes: 288,
    scales: &[Scale::F16(0)],
    dequantise: |block, out| {
        let d = f16_at(block, 0);
        for (out, &q) in out.iter_mut().zip(&block[2..]) {
            *out = d * f32::from(q as i8);
        }
    },
    pack: |blocks, group| {
        for (at, block) in blocks.chunks_exact(2 + BLOCK).enumerate() {
            group[4 * at..][..4].copy_from_slice(&f16_at(block, 0).to_le_bytes());
            group[32 + BLOCK * at..][..BLOCK].copy_from_slice(&block[2..]);
        }
    },
    quantise: Some(|values, block| {
        // The largest magnitude gets code 127; codes are of the scale as it is kept.
        put_f16(values.iter().fold(0.0, |most: f32, value| most.max(value.abs())) / 127.0, block, 0);
        let d = f16_at(block, 0);
        for (byte, value) in block[2..].iter_mut().zip(values) {
            *byte = if d == 0.0 { 0 } else { (value / d).round() as i8 as u8 };
        }
    }),
};
