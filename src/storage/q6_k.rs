//! Q6_K: 256 values `(d s) (q - 32)` with codes q of 6 bits; each 16 have a scale s of 8 bits, and all have d.
//!
//! | | bytes | |
//! |---|---|---|
//! | file, a block of 256 | 210 | 128 bytes of nibbles, 64 of the highest pairs of bits, 16 x s: i8, d: f16 |
//! | device, the same | 224 | d: f32, 12 unused bytes, 16 x s, 256 x the highest pair, 256 x the other four bits |

use super::planes::{BLOCK, f16_at, put_f16, put_nibbles, put_pairs};
use super::{Format, Scale, fit};

pub(super) static FORMAT: Format = Format {
    name: "Q6_K",
    block: 8 * BLOCK,
    block_bytes: 210,
    group: 8 * BLOCK,
    group_bytes: 224,
    scales: &[Scale::F16(208)],
    dequantise: |block, out| {
        let (d, codes) = (f16_at(block, 208), codes(block));
        for (sub, (out, codes)) in out.chunks_exact_mut(16).zip(codes.chunks_exact(16)).enumerate() {
            let d = d * f32::from(block[192 + sub] as i8);
            for (out, &q) in out.iter_mut().zip(codes) {
                *out = d * (f32::from(q) - 32.0);
            }
        }
    },
    pack: |block, group| {
        group[..4].copy_from_slice(&f16_at(block, 208).to_le_bytes());
        group[16..32].copy_from_slice(&block[192..208]);
        for (at, codes) in codes(block).chunks_exact(BLOCK).enumerate() {
            put_pairs(codes, 4, &mut group[32 + 8 * at..]);
            put_nibbles(codes, &mut group[96 + 16 * at..]);
        }
    },
    quantise: Some(|values, block| {
        let sub = |at: usize| -> [f32; 16] { std::array::from_fn(|value| values[16 * at + value]) };
        let scales: [f32; 16] = std::array::from_fn(|at| fit::scale(&sub(at), 32.0));
        let largest = fit::largest_magnitude(&scales);
        if largest.abs() < fit::NOTHING {
            // Of d = 0 every code means zero.
            return;
        }
        // Scales are themselves kept in 8 bits, the one of largest magnitude being -128.
        put_f16(largest / -128.0, block, 208);
        let d = f16_at(block, 208);
        for (at, scale) in scales.into_iter().enumerate() {
            let s = fit::code(scale * (-128.0 / largest), -128.0, 127.0);
            block[192 + at] = s as i8 as u8;
            for (value, number) in sub(at).into_iter().zip(16 * at..) {
                let code = if d * s == 0.0 { 32 } else { (fit::code(value / (d * s), -32.0, 31.0) + 32.0) as u8 };
                put_code(code, number, block);
            }
        }
    }),
};

/// A half of 128 elements is four times 32: low halves of 32 bytes, of the next 32, then their high halves; their highest bits lie
/// one above the other in 32 bytes.
fn codes(block: &[u8]) -> [u8; 8 * BLOCK] {
    std::array::from_fn(|at| {
        let [(low, low_shift), (high, high_shift)] = places(at);
        (block[low] >> low_shift & 15) | (block[high] >> high_shift & 3) << 4
    })
}

/// Writes the code of element `at`, whose bits are zeros before.
fn put_code(code: u8, at: usize, block: &mut [u8]) {
    let [(low, low_shift), (high, high_shift)] = places(at);
    block[low] |= (code & 15) << low_shift;
    block[high] |= code >> 4 << high_shift;
}

/// Byte and first bit of the low four bits of element `at`, and of its highest two.
fn places(at: usize) -> [(usize, usize); 2] {
    let (half, quarter, l) = (at / 128, at % 128 / BLOCK, at % BLOCK);
    [(64 * half + quarter % 2 * BLOCK + l, 4 * (quarter / 2)), (128 + BLOCK * half + l, 2 * quarter)]
}
