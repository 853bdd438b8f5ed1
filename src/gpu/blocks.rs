//! How block-quantised weights rest on the device: 32 elements of a row a block, in whole 32-bit words.
//!
//! | type | words | layout | element |
//! |---|---|---|---|
//! | Q8_0 | 9 | d: f32; 8 words of four codes (i8) | `d q` |
//! | Q4_1 | 5 | d, m: f16; 4 words of eight codes (4 bits) | `d q + m` |
//!
//! A word of Q4_1 holds elements 8 c .. 8 c + 8: the low halves of its bytes the first four, the high halves the others, so that four
//! elements that follow each other leave it by one shift and one mask. (ggml puts elements 0 .. 16 of a block into the low halves and the
//! others into the high ones.) Values are exactly those of the file: `d q` is exact in f32, and the sum is rounded once.

use crate::graph::DType;
use half::f16;

/// Elements of a block.
pub const BLOCK: usize = 32;

/// The bytes of a Q8_0 block.
pub fn q8_0(d: f32, codes: &[i8; BLOCK]) -> [u8; 36] {
    let mut bytes = [0; 36];
    bytes[..4].copy_from_slice(&d.to_le_bytes());
    bytes[4..].copy_from_slice(bytemuck::cast_slice(codes));
    bytes
}

/// The bytes of a Q4_1 block; codes are below 16.
pub fn q4_1(d: f16, m: f16, codes: &[u8; BLOCK]) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..2].copy_from_slice(&d.to_le_bytes());
    bytes[2..4].copy_from_slice(&m.to_le_bytes());
    for (word, eight) in bytes[4..].chunks_exact_mut(4).zip(codes.chunks_exact(8)) {
        word.iter_mut().enumerate().for_each(|(at, byte)| *byte = eight[at] | eight[at + 4] << 4);
    }
    bytes
}

/// Values as blocks of `dtype`, each code rounded to nearest.
pub(super) fn quantise(values: &[f32], dtype: DType) -> Vec<u8> {
    let blocks = values.as_chunks::<BLOCK>().0.iter();
    match dtype {
        DType::Q8_0 => blocks.map(q8_0_of).flat_map(|(d, codes)| q8_0(d, &codes)).collect(),
        _ => blocks.map(q4_1_of).flat_map(|(d, m, codes)| q4_1(d, m, &codes)).collect(),
    }
}

/// What blocks of `dtype` hold of these values; [`quantise`] of that is exact.
pub(super) fn quantised(values: &[f32], dtype: DType) -> Vec<f32> {
    let blocks = values.as_chunks::<BLOCK>().0.iter();
    match dtype {
        DType::Q8_0 => blocks.map(q8_0_of).flat_map(|(d, codes)| codes.map(|q| d * f32::from(q))).collect(),
        _ => blocks.map(q4_1_of).flat_map(|(d, m, codes)| codes.map(|q| d.to_f32() * f32::from(q) + m.to_f32())).collect(),
    }
}

/// The largest magnitude gets code 127. Like a file's, d is an f16.
fn q8_0_of(block: &[f32; BLOCK]) -> (f32, [i8; BLOCK]) {
    let d = f16::from_f32(block.iter().fold(0.0, |most: f32, value| most.max(value.abs())) / 127.0).to_f32();
    (d, block.map(|value| if d == 0.0 { 0 } else { (value / d).round() as i8 }))
}

/// The least value gets code 0, the largest 15.
fn q4_1_of(block: &[f32; BLOCK]) -> (f16, f16, [u8; BLOCK]) {
    let (least, most) = block.iter().fold((f32::MAX, f32::MIN), |(least, most), value| (least.min(*value), most.max(*value)));
    let (d, m) = (f16::from_f32((most - least) / 15.0), f16::from_f32(least));
    let code = |value: f32| ((value - m.to_f32()) / d.to_f32()).round().clamp(0.0, 15.0) as u8;
    (d, m, block.map(|value| if d == f16::ZERO { 0 } else { code(value) }))
}
