//! MXFP4: 32 values `2^(e - 128) t[q]` with an exponent e of 8 bits (E8M0) and codes q of 4 bits, which number twice the values of an FP4
//! (E2M1), so that they are whole numbers (Open Compute Project, Microscaling Formats 1.0).
//!
//! | | bytes | |
//! |---|---|---|
//! | file, a block of 32 | 17 | e: u8, 16 bytes of nibbles |
//! | device, a group of 256 | 144 | 8 x e, 8 unused bytes, 256 x q |
//!
//! Below e = 2 the scale is a subnormal f32, which some GPUs count as zero.

use super::planes::{BLOCK, ggml_nibbles, put_nibbles};
use super::{Format, Scale};

pub(super) static FORMAT: Format = Format {
    name: "MXFP4",
    block: BLOCK,
    block_bytes: 17,
    group: 8 * BLOCK,
    group_bytes: 144,
    scales: &[Scale::E8(0)],
    dequantise: |block, out| {
        let d = scale(block[0]);
        for (out, q) in out.iter_mut().zip(ggml_nibbles(&block[1..])) {
            *out = d * f32::from(TABLE[usize::from(q)]);
        }
    },
    pack: |blocks, group| {
        for (at, block) in blocks.chunks_exact(17).enumerate() {
            group[at] = block[0];
            put_nibbles(&ggml_nibbles(&block[1..]), &mut group[16 + 16 * at..]);
        }
    },
    quantise: None,
};

/// `2^(e - 128)`.
fn scale(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (u32::from(e) - 1) << 23 })
}

const TABLE: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
