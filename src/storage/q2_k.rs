//! Q2_K: 256 values `(d s) q - dmin n` with codes q of 2 bits; each 16 have a scale s and an offset n of 4 bits, and all have d and dmin.
//!
//! | | bytes | |
//! |---|---|---|
//! | file, a block of 256 | 84 | 16 x (s, n), 64 bytes of pairs of bits, d, dmin: f16 |
//! | device, a group of 1024 | 336 | 64 x (s, n), 4 x (d, dmin: f16), 1024 x q |

use super::planes::{BLOCK, f16_at, put_pairs};
use super::{Format, Scale};

pub(super) static FORMAT: Format = Format {
    name: "Q2_K",
    block: 8 * BLOCK,
    block_bytes: 84,
    group: 32 * BLOCK,
    group_bytes: 336,
    scales: &[Scale::F16(80), Scale::F16(82)],
    dequantise: |block, out| {
        let (d, dmin, codes) = (f16_at(block, 80), f16_at(block, 82), pairs(&block[16..]));
        for (sub, (out, codes)) in out.chunks_exact_mut(16).zip(codes.chunks_exact(16)).enumerate() {
            let (d, m) = (d * f32::from(block[sub] & 15), dmin * f32::from(block[sub] >> 4));
            for (out, &q) in out.iter_mut().zip(codes) {
                *out = d * f32::from(q) - m;
            }
        }
    },
    pack: |blocks, group| {
        for (at, block) in blocks.chunks_exact(84).enumerate() {
            group[16 * at..][..16].copy_from_slice(&block[..16]);
            group[64 + 4 * at..][..4].copy_from_slice(&block[80..]);
            for (number, codes) in pairs(&block[16..]).chunks_exact(BLOCK).enumerate() {
                put_pairs(codes, 0, &mut group[80 + 64 * at + 8 * number..]);
            }
        }
    },
    quantise: None,
};

/// 256 codes of 2 bits: 32 bytes hold four times 32 of them, one above the other.
pub(super) fn pairs(packed: &[u8]) -> [u8; 8 * BLOCK] {
    std::array::from_fn(|at| packed[at / 128 * BLOCK + at % BLOCK] >> (2 * (at % 128 / BLOCK)) & 3)
}
