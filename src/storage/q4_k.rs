//! Q4_K: 256 values `(d s) q - dmin n` with codes q of 4 bits; each 32 have a scale s and an offset n of 6 bits, and all have d and dmin.
//!
//! | | bytes | |
//! |---|---|---|
//! | file, a block of 256 | 144 | d, dmin: f16, 12 bytes of s and n, 128 bytes of nibbles |
//! | device, the same | 144 | d, dmin: f16; a word of the low four bits of s, one of those of n, one of the others; 256 x q |

use super::planes::{BLOCK, f16_at, put_f16, put_nibbles};
use super::{Format, Scale, fit};

pub(super) static FORMAT: Format = Format {
    name: "Q4_K",
    block: 8 * BLOCK,
    block_bytes: 144,
    group: 8 * BLOCK,
    group_bytes: 144,
    scales: &[Scale::F16(0), Scale::F16(2)],
    dequantise: |block, out| dequantise_subs(block, |sub| codes(&block[16..], sub), out),
    pack: |block, group| {
        pack_scales(block, group);
        for sub in 0..8 {
            put_nibbles(&codes(&block[16..], sub), &mut group[16 + 16 * sub..]);
        }
    },
    quantise: Some(|values, block| {
        // Steps from 1 less than the codes' range to 1 more.
        let wider: [f32; 21] = std::array::from_fn(|step| 0.1 * step as f32 - 1.0);
        let codes = quantise_subs(values, block, 15.0, &wider);
        for (packed, pair) in block[16..].chunks_exact_mut(BLOCK).zip(codes.chunks_exact(2)) {
            packed.iter_mut().enumerate().for_each(|(at, byte)| *byte = pair[0][at] | pair[1][at] << 4);
        }
    }),
};

/// Codes of sub-block `sub`: each 32 bytes hold two, one in their low halves.
pub(super) fn codes(packed: &[u8], sub: usize) -> [u8; BLOCK] {
    std::array::from_fn(|at| packed[sub / 2 * BLOCK + at] >> (4 * (sub % 2)) & 15)
}

/// Scale and offset of sub-block `sub`, 6 bits each, from the 12 bytes that hold them all.
pub(super) fn scale(packed: &[u8], sub: usize) -> [u8; 2] {
    match sub {
        ..4 => [packed[sub] & 63, packed[sub + 4] & 63],
        _ => {
            let low = packed[sub + 4];
            [(low & 15) | packed[sub - 4] >> 6 << 4, low >> 4 | packed[sub] >> 6 << 4]
        }
    }
}

/// The values of a block that begins as Q4_K does, with these codes of each sub-block.
pub(super) fn dequantise_subs(block: &[u8], codes: impl Fn(usize) -> [u8; BLOCK], out: &mut [f32]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    for (sub, out) in out.chunks_exact_mut(BLOCK).enumerate() {
        let [s, n] = scale(&block[4..], sub).map(f32::from);
        let (d, m) = (d * s, dmin * n);
        for (out, q) in out.iter_mut().zip(codes(sub)) {
            *out = d * f32::from(q) - m;
        }
    }
}

/// The first 16 bytes of a group: those of the block, the bits of scales and offsets in an order without cases.
pub(super) fn pack_scales(block: &[u8], group: &mut [u8]) {
    let mut words = [0_u32; 3];
    for sub in 0..8 {
        let [s, n] = scale(&block[4..], sub).map(u32::from);
        words[0] |= (s & 15) << (4 * sub);
        words[1] |= (n & 15) << (4 * sub);
        words[2] |= (s >> 4) << (2 * sub) | (n >> 4) << (16 + 2 * sub);
    }
    group[..4].copy_from_slice(&block[..4]);
    group[4..16].copy_from_slice(bytemuck::cast_slice(&words.map(u32::to_le)));
}

/// Writes d, dmin and the 12 bytes of scales and offsets of a block with codes `0 ..= most`, and gives the codes of each sub-block.
pub(super) fn quantise_subs(values: &[f32], block: &mut [u8], most: f32, wider: &[f32]) -> [[u8; BLOCK]; 8] {
    let sub = |at: usize| -> [f32; BLOCK] { std::array::from_fn(|value| values[BLOCK * at + value]) };
    let fitted: [[f32; 2]; 8] = std::array::from_fn(|at| fit::scale_and_offset(&sub(at), most, wider));
    // Scales and offsets are themselves kept in 63 steps, the largest of a block being the last.
    let largest = fitted.iter().fold([0.0_f32; 2], |most, fitted| [most[0].max(fitted[0]), most[1].max(fitted[1])]);
    let inverse = largest.map(|most| if most > 0.0 { 63.0 / most } else { 0.0 });
    put_f16(largest[0] / 63.0, block, 0);
    put_f16(largest[1] / 63.0, block, 2);
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    std::array::from_fn(|at| {
        let values = sub(at);
        let rounded: [f32; 2] = std::array::from_fn(|which| fit::code(fitted[at][which] * inverse[which], 0.0, 63.0));
        // Rounded one by one they no longer suit each other: of the pairs next to them the best is taken.
        let (scales, codes) = fit::best_neighbour(&values, rounded, [d, dmin], most);
        put_scale(scales, at, &mut block[4..16]);
        codes
    })
}

/// The inverse of [`scale`], into bytes that are zeros before.
fn put_scale([s, n]: [u8; 2], sub: usize, packed: &mut [u8]) {
    match sub {
        ..4 => {
            packed[sub] |= s;
            packed[sub + 4] |= n;
        }
        _ => {
            packed[sub + 4] |= (s & 15) | n << 4;
            packed[sub - 4] |= s >> 4 << 6;
            packed[sub] |= n >> 4 << 6;
        }
    }
}
