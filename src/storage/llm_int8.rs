//! Weights of LLM.int8 (Dettmers et al. 2022) as bitsandbytes keeps them: 64 values `(q s) / 127` with codes q of 8 bits. A scale s is that of a
//! whole row, its largest magnitude, and stands here in every block of the row.
//!
//! | | bytes | |
//! |---|---|---|
//! | a block of 64 | 68 | s: f32, 64 x q: i8 |
//! | device, a group of 256 | 272 | 4 x s: f32, 256 x q |
//!
//! Activations, which LLM.int8 rounds too, are not rounded here.

use super::planes::BLOCK;
use super::{Format, Scale};

pub(super) static FORMAT: Format = Format {
    name: "LLM_INT8",
    block: 2 * BLOCK,
    block_bytes: 4 + 2 * BLOCK,
    group: 8 * BLOCK,
    group_bytes: 272,
    scales: &[Scale::F32(0)],
    dequantise: |block, out| {
        let scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
        for (out, &q) in out.iter_mut().zip(&block[4..]) {
            *out = f32::from(q as i8) * scale * STEP;
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

/// 1 / 127, by which bitsandbytes multiplies (`int8_vectorwise_dequant`).
const STEP: f32 = 7.874_016e-3;
