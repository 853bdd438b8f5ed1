//! Q3_K: 256 values `(d (s - 32)) (q - 4)` with codes q of 3 bits; each 16 have a scale s of 6 bits, and all have d.
//!
//! | | bytes | |
//! |---|---|---|
//! | file, a block of 256 | 110 | 32 bytes of highest bits, 64 of the lower pairs, 12 of s, d: f16 |
//! | device, the same | 112 | 2 words of the low four bits of s, one of the others, d: f32, 256 x the highest bit, 256 x the pair |

use super::planes::{BLOCK, f16_at, put_bits, put_pairs};
use super::q2_k::pairs;
use super::{Format, Scale};

pub(super) static FORMAT: Format = Format {
    name: "Q3_K",
    block: 8 * BLOCK,
    block_bytes: 110,
    group: 8 * BLOCK,
    group_bytes: 112,
    scales: &[Scale::F16(108)],
    dequantise: |block, out| {
        let (d, codes) = (f16_at(block, 108), codes(block));
        for (sub, (out, codes)) in out.chunks_exact_mut(16).zip(codes.chunks_exact(16)).enumerate() {
            let d = d * (f32::from(scale(&block[96..], sub)) - 32.0);
            for (out, &q) in out.iter_mut().zip(codes) {
                *out = d * (f32::from(q) - 4.0);
            }
        }
    },
    pack: |block, group| {
        let mut words = [0_u32; 3];
        for sub in 0..16 {
            let s = u32::from(scale(&block[96..], sub));
            words[sub / 8] |= (s & 15) << (4 * (sub % 8));
            words[2] |= (s >> 4) << (2 * sub);
        }
        group[..12].copy_from_slice(bytemuck::cast_slice(&words.map(u32::to_le)));
        group[12..16].copy_from_slice(&f16_at(block, 108).to_le_bytes());
        for (at, codes) in codes(block).chunks_exact(BLOCK).enumerate() {
            put_bits(codes, 2, &mut group[16 + 4 * at..]);
            put_pairs(codes, 0, &mut group[48 + 8 * at..]);
        }
    },
    quantise: None,
};

/// The low four bits of scale j lie in byte j % 8, those of the first eight in its low half, the other two in byte 8 + j % 4, at bit 2 (j / 4).
fn scale(packed: &[u8], sub: usize) -> u8 {
    (packed[sub % 8] >> (4 * (sub / 8)) & 15) | (packed[8 + sub % 4] >> (2 * (sub / 4)) & 3) << 4
}

/// Bit `at / 32` of byte `at % 32` is the highest of an element.
fn codes(block: &[u8]) -> [u8; 8 * BLOCK] {
    let low = pairs(&block[32..]);
    std::array::from_fn(|at| low[at] | (block[at % BLOCK] >> (at / BLOCK) & 1) << 2)
}
