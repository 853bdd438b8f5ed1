//! IQ4_XS: 256 values `(d (s - 32)) t[q]` with codes q of 4 bits into IQ4_NL's table; each 32 have a scale s of 6 bits, and all have d.
//!
//! | | bytes | |
//! |---|---|---|
//! | file, a block of 256 | 136 | d: f16, the highest pairs of s: u16, their low four bits: u32, 128 bytes of nibbles |
//! | device, the same | 144 | the same 8 bytes, 8 unused, 256 x q |

use super::planes::{BLOCK, f16_at, ggml_nibbles, put_nibbles};
use super::{Format, Scale, iq4_nl};

pub(super) static FORMAT: Format = Format {
    name: "IQ4_XS",
    block: 8 * BLOCK,
    block_bytes: 136,
    group: 8 * BLOCK,
    group_bytes: 144,
    scales: &[Scale::F16(0)],
    dequantise: |block, out| {
        let d = f16_at(block, 0);
        for (sub, out) in out.chunks_exact_mut(BLOCK).enumerate() {
            let d = d * (f32::from(scale(block, sub)) - 32.0);
            for (out, q) in out.iter_mut().zip(ggml_nibbles(&block[8 + 16 * sub..])) {
                *out = d * f32::from(iq4_nl::TABLE[usize::from(q)]);
            }
        }
    },
    pack: |block, group| {
        group[..8].copy_from_slice(&block[..8]);
        for sub in 0..8 {
            put_nibbles(&ggml_nibbles(&block[8 + 16 * sub..]), &mut group[16 + 16 * sub..]);
        }
    },
    quantise: None,
};

fn scale(block: &[u8], sub: usize) -> u8 {
    let high = u16::from_le_bytes([block[2], block[3]]);
    (block[4 + sub / 2] >> (4 * (sub % 2)) & 15) | ((high >> (2 * sub) & 3) as u8) << 4
}
