//! FP8 with scales: 64 values `s q` with a scale s and numbers q of 8 bits in E4M3 (a sign, 4 bits of exponent with bias 7, 3 of mantissa,
//! no infinity; OFP8, arXiv 2209.05433), as Qwen and DeepSeek publish models. A scale of a folder is one for a whole matrix, a row, or a
//! square of 128 x 128, and stands here in every block that it belongs to.
//!
//! | | bytes | |
//! |---|---|---|
//! | a block of 64 | 68 | s: f32, 64 x q |
//! | device, a group of 256 | 272 | 4 x s, 256 x q |

use super::planes::BLOCK;
use super::{Format, Scale};

pub(super) static FORMAT: Format = Format {
    name: "FP8_E4M3",
    block: 2 * BLOCK,
    block_bytes: 4 + 2 * BLOCK,
    group: 8 * BLOCK,
    group_bytes: 272,
    scales: &[Scale::F32(0), Scale::E4M3s(4, 2 * BLOCK)],
    dequantise: |block, out| {
        let scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
        for (out, code) in out.iter_mut().zip(&block[4..]) {
            *out = number(*code) * scale;
        }
    },
    pack: |blocks, group| {
        for (at, block) in blocks.chunks_exact(4 + 2 * BLOCK).enumerate() {
            group[4 * at..][..4].copy_from_slice(&block[..4]);
            group[16 + 2 * BLOCK * at..][..2 * BLOCK].copy_from_slice(&block[4..]);
        }
    },
    quantise: None,
};

/// The number that a code stands for.
fn number(code: u8) -> f32 {
    let (exponent, mantissa) = (code >> 3 & 15, f32::from(code & 7));
    let size = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * 2.0_f32.powi(i32::from(exponent) - 7),
    };
    if code & 0x80 == 0 { size } else { -size }
}
