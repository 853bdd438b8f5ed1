//! Q5_K: Q4_K with codes of 5 bits.
//!
//! | | bytes | |
//! |---|---|---|
//! | file, a block of 256 | 176 | d, dmin, s and n as in Q4_K, 32 bytes of highest bits, 128 bytes of nibbles |
//! | device, the same | 176 | 16 bytes as in Q4_K, 256 x the highest bit, 256 x the others |

use super::planes::{BLOCK, put_bits, put_nibbles};
use super::{Format, Scale, q4_k};

pub(super) static FORMAT: Format = Format {
    name: "Q5_K",
    block: 8 * BLOCK,
    block_bytes: 176,
    group: 8 * BLOCK,
    group_bytes: 176,
    scales: &[Scale::F16(0), Scale::F16(2)],
    dequantise: |block, out| q4_k::dequantise_subs(block, |sub| codes(block, sub), out),
    pack: |block, group| {
        q4_k::pack_scales(block, group);
        for sub in 0..8 {
            let codes = codes(block, sub);
            put_bits(&codes, 4, &mut group[16 + 4 * sub..]);
            put_nibbles(&codes, &mut group[48 + 16 * sub..]);
        }
    },
    quantise: Some(|values, block| {
        // Steps from half of one less than the codes' range to one more.
        let wider: [f32; 16] = std::array::from_fn(|step| 0.1 * step as f32 - 0.5);
        let codes = q4_k::quantise_subs(values, block, 31.0, &wider);
        let (high, low) = block[16..].split_at_mut(BLOCK);
        for (sub, codes) in codes.iter().enumerate() {
            for (at, code) in codes.iter().enumerate() {
                high[at] |= code >> 4 << sub;
                low[sub / 2 * BLOCK + at] |= (code & 15) << (4 * (sub % 2));
            }
        }
    }),
};

/// Bit `sub` of byte l is the highest of element l of sub-block `sub`.
fn codes(block: &[u8], sub: usize) -> [u8; BLOCK] {
    let low = q4_k::codes(&block[48..], sub);
    std::array::from_fn(|at| low[at] | (block[16 + at] >> sub & 1) << 4)
}
