//! Q5_1: 32 values `d q + m` with a scale d, an offset m and codes q of 5 bits.
//!
//! | | bytes | |
//! |---|---|---|
//! | file, a block of 32 | 24 | d: f16, m: f16, the highest bits: u32, 16 bytes of nibbles |
//! | device, a group of 256 | 192 | 8 x (d, m: f16), 256 x the highest bit, 256 x the others |

use super::planes::{BLOCK, f16_at, five_bits, put_bits, put_f16, put_five_bits, put_nibbles, unsigned_codes};
use super::{Format, Scale};

pub(super) static FORMAT: Format = Format {
    name: "Q5_1",
    block: BLOCK,
    block_bytes: 8 + BLOCK / 2,
    group: 8 * BLOCK,
    group_bytes: 192,
    scales: &[Scale::F16(0), Scale::F16(2)],
    dequantise: |block, out| {
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        for (out, q) in out.iter_mut().zip(five_bits(&block[8..], &block[4..8])) {
            *out = d * f32::from(q) + m;
        }
    },
    pack: |blocks, group| {
        for (at, block) in blocks.chunks_exact(8 + BLOCK / 2).enumerate() {
            let codes = five_bits(&block[8..], &block[4..8]);
            group[4 * at..][..4].copy_from_slice(&block[..4]);
            put_bits(&codes, 4, &mut group[32 + 4 * at..]);
            put_nibbles(&codes, &mut group[64 + 16 * at..]);
        }
    },
    quantise: Some(|values, block| {
        let (d, m, codes) = unsigned_codes(values, 31.0);
        put_f16(d, block, 0);
        put_f16(m, block, 2);
        let (high, nibbles) = block[4..].split_at_mut(4);
        put_five_bits(&codes, nibbles, high);
    }),
};
