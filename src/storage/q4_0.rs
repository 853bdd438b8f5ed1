//! Q4_0: 32 values `d (q - 8)` with a scale d and codes q of 4 bits.
//!
//! | | bytes | |
//! |---|---|---|
//! | file, a block of 32 | 18 | d: f16, 16 bytes of nibbles |
//! | device, a group of 256 | 144 | 8 x d: f16, 256 x q |

use super::planes::{BLOCK, f16_at, ggml_nibbles, put_f16, put_ggml_nibbles, put_nibbles, signed_codes};
use super::{Format, Scale};

pub(super) static FORMAT: Format = Format {
    name: "Q4_0",
    block: BLOCK,
    block_bytes: 2 + BLOCK / 2,
    group: 8 * BLOCK,
    group_bytes: 144,
    scales: &[Scale::F16(0)],
    dequantise: |block, out| {
        let d = f16_at(block, 0);
        for (out, q) in out.iter_mut().zip(ggml_nibbles(&block[2..])) {
            *out = d * (f32::from(q) - 8.0);
        }
    },
    pack: |blocks, group| {
        for (at, block) in blocks.chunks_exact(2 + BLOCK / 2).enumerate() {
            group[2 * at..][..2].copy_from_slice(&block[..2]);
            put_nibbles(&ggml_nibbles(&block[2..]), &mut group[16 + 16 * at..]);
        }
    },
    quantise: Some(|values, block| {
        let (d, codes) = signed_codes(values, 8.0);
        put_f16(d, block, 0);
        put_ggml_nibbles(&codes, &mut block[2..]);
    }),
};
