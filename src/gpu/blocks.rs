//! How block-quantised weights rest on the device: 32 elements of a row a block, numbered through the matrix, and four blocks a group.
//!
//! | type | bytes a group | head | then, block by block | element |
//! |---|---|---|---|---|
//! | Q8_0 | 144 | four times d: f32 | 8 words of four codes (i8) | `d q` |
//! | Q4_1 | 80 | four times d, m: f16 | 4 words of eight codes (4 bits) | `d q + m` |
//!
//! Group by group, heads and codes begin at multiples of 16 bytes, so a kernel may load all codes of a block in one or two pieces. The last
//! group may be filled up with zeros.
//!
//! A word of Q4_1 holds elements 8 c .. 8 c + 8: the low halves of its bytes the first four, the high halves the others, so that four
//! elements that follow each other leave it by one shift and one mask. (ggml puts elements 0 .. 16 of a block into the low halves and the
//! others into the high ones, and the scale before the codes of each block.) Values are exactly those of the file: `d q` is exact in f32,
//! and the sum is rounded once.

use crate::graph::DType;
use half::f16;

/// Elements of a block.
pub const BLOCK: usize = 32;

/// Blocks of a group.
const GROUP: usize = 4;

/// The bytes of Q8_0 blocks: of each, d and the codes.
pub fn q8_0(blocks: impl Iterator<Item = (f32, [i8; BLOCK])>) -> Vec<u8> {
    in_groups(blocks.map(|(d, codes)| (d.to_le_bytes(), bytemuck::cast::<_, [u8; BLOCK]>(codes))))
}

/// The bytes of Q4_1 blocks: of each, d, m and the codes, which are below 16.
pub fn q4_1(blocks: impl Iterator<Item = (f16, f16, [u8; BLOCK])>) -> Vec<u8> {
    in_groups(blocks.map(|(d, m, codes)| {
        let (d, m) = (d.to_le_bytes(), m.to_le_bytes());
        (
            [d[0], d[1], m[0], m[1]],
            std::array::from_fn::<u8, { BLOCK / 2 }, _>(|at| {
                let eight = &codes[at / 4 * 8..];
                eight[at % 4] | eight[at % 4 + 4] << 4
            }),
        )
    }))
}

/// Heads and packed codes of blocks, group by group.
fn in_groups<const CODES: usize>(blocks: impl Iterator<Item = ([u8; 4], [u8; CODES])>) -> Vec<u8> {
    let blocks: Vec<_> = blocks.collect();
    let mut bytes = Vec::with_capacity(blocks.len().div_ceil(GROUP) * GROUP * (4 + CODES));
    for group in blocks.chunks(GROUP) {
        let missing = GROUP - group.len();
        group.iter().for_each(|(head, _)| bytes.extend(head));
        bytes.extend(std::iter::repeat_n(0, 4 * missing));
        group.iter().for_each(|(_, codes)| bytes.extend(codes));
        bytes.extend(std::iter::repeat_n(0, CODES * missing));
    }
    bytes
}

/// Values as blocks of `dtype`, each code rounded to nearest.
pub(super) fn quantise(values: &[f32], dtype: DType) -> Vec<u8> {
    let blocks = values.as_chunks::<BLOCK>().0.iter();
    match dtype {
        DType::Q8_0 => q8_0(blocks.map(q8_0_of)),
        _ => q4_1(blocks.map(q4_1_of)),
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
