//! Codes of a few bits in groups of columns with a scale each, as libraries for quantised folders keep them: GPTQ, AWQ and
//! compressed-tensors with a whole number as zero point, `s (q - z)`; MLX with an offset, `s q + b`. A group of the folder is one block here
//! or several with the same head.
//!
//! | | bytes | |
//! |---|---|---|
//! | a block of 32, 64 or 128 | 4 + codes | head, codes one behind the other from the lowest bit |
//! | device, a group of 256 (of 512 for blocks of 128) | the same | heads; high bits of codes of 3, 5 and 6 bits; low 2, 4 or 8 bits |
//! | device, a group of 32 blocks of those with a zero point of 4 bits | 80 + codes | 32 scales, 32 zero points; codes as above |
//!
//! The head is one word: with a zero point, an f32 of which the lowest 13 bits give the zero point instead, which holds any f16 or bf16;
//! with an offset, scale and offset in f16 or bf16. Where a word would be more than a tenth of the file's bytes (codes of 2 to 4 bits in blocks of 32
//! or 64, of 2 bits in blocks of 128 of larger groups), scales of one type and zero points of 4 bits lie apart on the device. Products of a scale and a whole number of 9 bits are exact in
//! f32. So `s (q - z)` is exact however it is computed, and `s q + b` is rounded once.

use super::planes::{BLOCK, put_bits, put_nibbles, put_pairs};
use super::{Format, Scale};

/// A format of this kind; there are those of [`Affine::ALL`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Affine {
    bits: u8,
    block: u8,
    offset: Offset,
    /// Whether columns rest in an order of their own, so that those of a group follow each other.
    ordered: bool,
}

/// What a head holds besides the scale.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Offset {
    /// A whole number, which is taken from the code.
    ZeroPoint,
    /// The same, of 4 bits, with a scale in f16.
    ZeroPointF16,
    /// The same with a scale in bf16.
    ZeroPointBF16,
    /// What is added to the product, in f16 as the scale is.
    F16,
    /// The same in bf16.
    BF16,
}

impl Offset {
    /// Whether it is a whole number that is taken from the code.
    pub fn is_zero_point(self) -> bool {
        matches!(self, Self::ZeroPoint | Self::ZeroPointF16 | Self::ZeroPointBF16)
    }

    /// The inverse of `as u8`, for functions that have it as a constant.
    const fn of(number: u8) -> Self {
        match number {
            0 => Self::ZeroPoint,
            1 => Self::ZeroPointF16,
            2 => Self::ZeroPointBF16,
            3 => Self::F16,
            _ => Self::BF16,
        }
    }
}

/// Bits of a head that give the zero point.
const ZERO_BITS: u32 = 13;

impl Affine {
    /// The format of codes of `bits` in blocks of `block`, if there is one.
    pub fn new(bits: usize, block: usize, offset: Offset) -> Option<Self> {
        let is = |known: &&Self| (known.bits(), known.block(), known.offset) == (bits, block, offset);
        Self::ALL.iter().find(is).copied()
    }

    /// The same with columns in an order of their own, which [`TensorSource::order`](super::TensorSource::order) tells, or not.
    pub fn with_order(self, ordered: bool) -> Self {
        Self { ordered, ..self }
    }

    /// Whether columns rest in an order of their own.
    pub fn is_ordered(self) -> bool {
        self.ordered
    }

    /// Bits of a code.
    pub fn bits(self) -> usize {
        usize::from(self.bits)
    }

    /// Values that share a head.
    pub fn block(self) -> usize {
        usize::from(self.block)
    }

    pub fn offset(self) -> Offset {
        self.offset
    }

    /// The head with this scale, and with this zero point or offset. Both are numbers that the format holds.
    pub(crate) fn head(self, scale: f32, offset: f32) -> [u8; 4] {
        let pair = |scale: u16, offset: u16| (u32::from(offset) << 16 | u32::from(scale)).to_le_bytes();
        match self.offset {
            Offset::ZeroPoint | Offset::ZeroPointF16 | Offset::ZeroPointBF16 => {
                let least = 1 << ZERO_BITS;
                // Of a NaN the lowest bits may be all that tells it from infinity; either is refused.
                (scale.to_bits() & !(least - 1) | offset as u32 & (least - 1)).to_le_bytes()
            }
            Offset::F16 => pair(half::f16::from_f32(scale).to_bits(), half::f16::from_f32(offset).to_bits()),
            Offset::BF16 => pair(half::bf16::from_f32(scale).to_bits(), half::bf16::from_f32(offset).to_bits()),
        }
    }

    /// The shader parts that fill the slots of its loader: the loader, where heads lie, what they hold.
    pub(crate) fn parts(self) -> [&'static str; 3] {
        let loader = match self.bits {
            2 => "weights_int2",
            3 => "weights_int3",
            4 => "weights_int4",
            5 => "weights_int5",
            6 => "weights_int6",
            _ => "weights_int8",
        };
        let heads = match self.block {
            32 if is_parted(self.offset) => "heads_parted_32",
            64 if is_parted(self.offset) => "heads_parted_64",
            _ if is_parted(self.offset) => "heads_parted_128",
            32 => "heads_32",
            64 => "heads_64",
            _ => "heads_128",
        };
        let scales = match self.offset {
            Offset::ZeroPoint => "scale_zero_point",
            Offset::ZeroPointF16 => "scale_zero_point_f16",
            Offset::ZeroPointBF16 => "scale_zero_point_bf16",
            Offset::F16 => "scale_offset_f16",
            Offset::BF16 => "scale_offset_bf16",
        };
        [loader, heads, scales]
    }
}

macro_rules! formats {
    ($($name:ident: $bits:literal $block:literal $offset:ident;)*) => {
        impl Affine {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];
            $(pub const $name: Self = Self { bits: $bits, block: $block, offset: Offset::$offset, ordered: false };)*

            pub(super) fn format(self) -> &'static Format {
                $(static $name: Format = format::<$bits, $block, { Offset::$offset as u8 }>(stringify!($name));)*
                match self.with_order(false) {
                    $(Self::$name => &$name,)*
                    // Fields are private to this file, and `new` gives those of the table alone.
                    Self { .. } => unreachable!("there is no such format"),
                }
            }
        }
    };
}

// Blocks of 128 where 64 would take more than a tenth beside the file's groups of 128 or more.
formats! {
    INT8_64: 8 64 ZeroPoint;
    INT8_32: 8 32 ZeroPoint;
    INT4_128: 4 128 ZeroPoint;
    INT4_64_ZF16: 4 64 ZeroPointF16;
    INT4_64_ZBF16: 4 64 ZeroPointBF16;
    INT4_32_ZF16: 4 32 ZeroPointF16;
    INT4_32_ZBF16: 4 32 ZeroPointBF16;
    INT3_128: 3 128 ZeroPoint;
    INT3_64_ZF16: 3 64 ZeroPointF16;
    INT3_64_ZBF16: 3 64 ZeroPointBF16;
    INT3_32_ZF16: 3 32 ZeroPointF16;
    INT3_32_ZBF16: 3 32 ZeroPointBF16;
    INT2_128_ZF16: 2 128 ZeroPointF16;
    INT2_128_ZBF16: 2 128 ZeroPointBF16;
    INT2_64_ZF16: 2 64 ZeroPointF16;
    INT2_64_ZBF16: 2 64 ZeroPointBF16;
    INT2_32_ZF16: 2 32 ZeroPointF16;
    INT2_32_ZBF16: 2 32 ZeroPointBF16;
    INT8_64_F16: 8 64 F16;
    INT8_32_F16: 8 32 F16;
    INT6_64_F16: 6 64 F16;
    INT6_32_F16: 6 32 F16;
    INT5_64_F16: 5 64 F16;
    INT5_32_F16: 5 32 F16;
    INT4_64_F16: 4 64 F16;
    INT4_32_F16: 4 32 F16;
    INT3_64_F16: 3 64 F16;
    INT3_32_F16: 3 32 F16;
    INT2_128_F16: 2 128 F16;
    INT2_64_F16: 2 64 F16;
    INT2_32_F16: 2 32 F16;
    INT8_64_BF16: 8 64 BF16;
    INT8_32_BF16: 8 32 BF16;
    INT6_64_BF16: 6 64 BF16;
    INT6_32_BF16: 6 32 BF16;
    INT5_64_BF16: 5 64 BF16;
    INT5_32_BF16: 5 32 BF16;
    INT4_64_BF16: 4 64 BF16;
    INT4_32_BF16: 4 32 BF16;
    INT3_64_BF16: 3 64 BF16;
    INT3_32_BF16: 3 32 BF16;
    INT2_128_BF16: 2 128 BF16;
    INT2_64_BF16: 2 64 BF16;
    INT2_32_BF16: 2 32 BF16;
}

/// Whether scales and zero points lie apart on the device.
const fn is_parted(offset: Offset) -> bool {
    matches!(offset, Offset::ZeroPointF16 | Offset::ZeroPointBF16)
}

/// Blocks of 32 codes in a group on the device, and the bytes of its heads: a multiple of 16, so that codes lie at whole 16 bytes.
const fn group_of(block: usize, offset: Offset) -> (usize, usize) {
    match block {
        _ if is_parted(offset) => (32 * block / BLOCK, 80),
        128 => (16, 16),
        _ => (8, 4 * 8 * BLOCK / block),
    }
}

const fn format<const BITS: usize, const SIZE: usize, const OFFSET: u8>(name: &'static str) -> Format {
    let (blocks, heads) = group_of(SIZE, Offset::of(OFFSET));
    let scales: &'static [Scale] = match Offset::of(OFFSET) {
        Offset::F16 => &[Scale::F16(0), Scale::F16(2)],
        Offset::BF16 => &[Scale::BF16(0), Scale::BF16(2)],
        Offset::ZeroPoint => &[Scale::WithZeroPoint(0, Offset::ZeroPoint)],
        Offset::ZeroPointF16 => &[Scale::WithZeroPoint(0, Offset::ZeroPointF16)],
        Offset::ZeroPointBF16 => &[Scale::WithZeroPoint(0, Offset::ZeroPointBF16)],
    };
    Format {
        name,
        block: SIZE,
        block_bytes: 4 + SIZE * BITS / 8,
        group: BLOCK * blocks,
        group_bytes: heads + BLOCK * blocks * BITS / 8,
        scales,
        dequantise: dequantise::<BITS, OFFSET>,
        pack: pack::<BITS, SIZE, OFFSET>,
        quantise: None,
    }
}

/// Codes `32 part .. 32 part + 32` of a block.
fn codes<const BITS: usize>(packed: &[u8], part: usize) -> [u8; BLOCK] {
    std::array::from_fn(|at| {
        let bit = (BLOCK * part + at) * BITS;
        let next = packed.get(bit / 8 + 1).copied().unwrap_or(0);
        let window = u16::from(packed[bit / 8]) | u16::from(next) << 8;
        (window >> (bit % 8)) as u8 & (u8::MAX >> (8 - BITS))
    })
}

/// The inverse of [`codes`] for a whole block, whose bytes are zero before.
pub(crate) fn put_codes(codes: &[u8], bits: usize, packed: &mut [u8]) {
    for (at, code) in codes.iter().enumerate() {
        let window = u16::from(*code) << (at * bits % 8);
        packed[at * bits / 8] |= window as u8;
        if window > 0xff {
            packed[at * bits / 8 + 1] |= (window >> 8) as u8;
        }
    }
}

fn dequantise<const BITS: usize, const OFFSET: u8>(block: &[u8], out: &mut [f32]) {
    let head = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    let (low, high) = (head as u16, (head >> 16) as u16);
    let zero = head & ((1 << ZERO_BITS) - 1);
    let has_zero_point = Offset::of(OFFSET).is_zero_point();
    let (scale, offset) = match Offset::of(OFFSET) {
        Offset::F16 => (half::f16::from_bits(low).to_f32(), half::f16::from_bits(high).to_f32()),
        Offset::BF16 => (half::bf16::from_bits(low).to_f32(), half::bf16::from_bits(high).to_f32()),
        Offset::ZeroPoint | Offset::ZeroPointF16 | Offset::ZeroPointBF16 => (f32::from_bits(head - zero), zero as f32),
    };
    for (part, out) in out.chunks_mut(BLOCK).enumerate() {
        for (out, q) in out.iter_mut().zip(codes::<BITS>(&block[4..], part).map(f32::from)) {
            *out = if has_zero_point { scale * (q - offset) } else { scale * q + offset };
        }
    }
}

fn pack<const BITS: usize, const SIZE: usize, const OFFSET: u8>(blocks: &[u8], group: &mut [u8]) {
    let (count, heads) = group_of(SIZE, Offset::of(OFFSET));
    // Bytes that 32 codes have in the plane of their high bits, and in that of the others.
    let (low_bits, high) = match BITS {
        3 => (2, 4),
        5 => (4, 4),
        6 => (4, 8),
        bits => (bits, 0),
    };
    let low = BLOCK * low_bits / 8;
    for (at, block) in blocks.chunks_exact(4 + SIZE * BITS / 8).enumerate() {
        put_head(&block[..4], Offset::of(OFFSET), at, group);
        for part in 0..SIZE / BLOCK {
            let codes = codes::<BITS>(&block[4..], part);
            let own = at * SIZE / BLOCK + part;
            let (high_plane, low_plane) = group[heads..].split_at_mut(high * count);
            match BITS {
                3 => put_bits(&codes, 2, &mut high_plane[high * own..]),
                5 => put_bits(&codes, 4, &mut high_plane[high * own..]),
                6 => put_pairs(&codes, 4, &mut high_plane[high * own..]),
                _ => {}
            }
            let plane = &mut low_plane[low * own..][..low];
            match low_bits {
                2 => put_pairs(&codes, 0, plane),
                4 => put_nibbles(&codes, plane),
                _ => plane.copy_from_slice(&codes),
            }
        }
    }
}

/// The head of block `at` into its group.
fn put_head(head: &[u8], offset: Offset, at: usize, group: &mut [u8]) {
    let word = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let zero = word & ((1 << ZERO_BITS) - 1);
    let scale = f32::from_bits(word - zero);
    let scale = match offset {
        Offset::ZeroPointF16 => half::f16::from_f32(scale).to_le_bytes(),
        Offset::ZeroPointBF16 => half::bf16::from_f32(scale).to_le_bytes(),
        Offset::ZeroPoint | Offset::F16 | Offset::BF16 => return group[4 * at..][..4].copy_from_slice(head),
    };
    group[2 * at..][..2].copy_from_slice(&scale);
    group[64 + at / 2] |= (zero as u8 & 15) << (4 * (at % 2));
}
