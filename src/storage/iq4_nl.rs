//! IQ4_NL: 32 values `d t[q]` with a scale d and codes q of 4 bits, which number the entries of a table.
//!
//! | | bytes | |
//! |---|---|---|
//! | file, a block of 32 | 18 | d: f16, 16 bytes of nibbles |
//! | device, a group of 256 | 144 | 8 x d: f16, 256 x q |

use super::planes::{BLOCK, f16_at, ggml_nibbles};
use super::{Format, Scale, q4_0};

pub(super) static FORMAT: Format = Format {
    name: "IQ4_NL",
    dequantise: |block, out| {
        let d = f16_at(block, 0);
        for (out, q) in out.iter_mut().zip(ggml_nibbles(&block[2..])) {
            *out = d * f32::from(TABLE[usize::from(q)]);
        }
    },
    quantise: None,
    block: BLOCK,
    block_bytes: 18,
    group: 8 * BLOCK,
    group_bytes: 144,
    scales: &[Scale::F16(0)],
    pack: |blocks, group| (q4_0::FORMAT.pack)(blocks, group),
};

/// ggml's `kvalues_iq4nl`.
pub(super) const TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
