//! Q5_0: 32 values `d (q - 16)` with a scale d and codes q of 5 bits.
//!
//! | | bytes | |
//! |---|---|---|
//! | file, a block of 32 | 22 | d: f16, the highest bits: u32, 16 bytes of nibbles |
//! | device, a group of 256 | 176 | 8 x d: f16, 256 x the highest bit, 256 x the others |

use super::planes::{BLOCK, f16_at, five_bits, put_bits, put_f16, put_five_bits, put_nibbles, signed_codes};
use super::{Format, Scale};

pub(super) static FORMAT: Format = Format {
    name: "Q5_0",
    block: BLOCK,
    block_bytes: 6 + BLOCK / 2,
    group: 8 * BLOCK,
    group_bytes: 176,
    scales: &[Scale::F16(0)],
    dequantise: |block, out| {
        let d = f16_at(block, 0);
        for (out, q) in out.iter_mut().zip(five_bits(&block[6..], &block[2..6])) {
            *out = d * (f32::from(q) - 16.0);
        }
    },
    pack: |blocks, group| {
        for (at, block) in blocks.chunks_exact(6 + BLOCK / 2).enumerate() {
            let codes = five_bits(&block[6..], &block[2..6]);
            group[2 * at..][..2].copy_from_slice(&block[..2]);
            put_bits(&codes, 4, &mut group[16 + 4 * at..]);
            put_nibbles(&codes, &mut group[48 + 16 * at..]);
        }
    },
    quantise: Some(|values, block| {
        let (d, codes) = signed_codes(values, 16.0);
        put_f16(d, block, 0);
        let (high, nibbles) = block[2..].split_at_mut(4);
        put_five_bits(&codes, nibbles, high);
    }),
};
