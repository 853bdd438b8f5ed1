//! How numbers rest: the one list of formats, one file each.
//!
//! A format has two forms. In a **file**, blocks follow each other as the format's makers laid them out. On the **device**, the same codes
//! and scales lie so that a kernel loads them in few pieces (`planes`): in groups of whole blocks, scales first, then codes, then
//! high bits. Packing moves bits and rounds nothing, so values on the device are exactly those that the reference library (gguf-py,
//! bitsandbytes) computes from the file; the resident form takes at most 10 % more bytes.
//!
//! To add a format: its file here with a `Format`, a line in [`DType`] and its tables, and `shaders/common/weights_<name>.wgsl`, which
//! loads it. Every algorithm then has a kernel for it ([`crate::kernel::algorithm`]), and the property suite tests them all.

mod affine;
pub mod double_quant;
mod fit;
mod float;
mod fp4;
mod fp8_e4m3;
mod iq4_nl;
mod iq4_xs;
mod llm_int8;
pub mod mixture;
mod mxfp4;
mod nf4;
mod planes;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
pub mod source;

pub use source::{TensorInfo, TensorSource};

pub(crate) use affine::put_codes;
pub use affine::{Affine, Offset};
use clap::ValueEnum;
use clap::builder::PossibleValue;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How the elements of a matrix are stored. Arithmetic is always f32 on the GPU and f64 in the reference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[allow(non_camel_case_types, reason = "the field's own names: Q8_0 is what every tool calls it")]
pub enum DType {
    F32,
    BF16,
    F16,
    /// Whole numbers: ids, positions. Never a weight.
    U32,
    Q8_0,
    Q6_K,
    Q5_1,
    Q5_K,
    Q5_0,
    Q4_1,
    Q4_K,
    Q4_0,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
    NF4,
    FP4,
    LLM_INT8,
    Q3_K,
    Q2_K,
    FP8_E4M3,
    /// Codes in groups of columns, of folders that were quantised by GPTQ, AWQ, MLX and the like.
    Affine(Affine),
}

/// What a format is made of.
pub(crate) struct Format {
    /// As files write it.
    pub name: &'static str,
    /// Values in a block of a file, and its bytes.
    pub block: usize,
    pub block_bytes: usize,
    /// Values in a group on the device, and its bytes.
    pub group: usize,
    pub group_bytes: usize,
    /// The numbers in a block of a file. What else is in it may be any bits.
    pub scales: &'static [Scale],
    /// One block of a file to its values, in f32, by the operations of the reference library in their order.
    pub dequantise: fn(&[u8], &mut [f32]),
    /// Blocks of a file, at most as many as a group has, to that group, which is zeros before.
    pub pack: fn(&[u8], &mut [u8]),
    /// The values of one block to the block of a file that holds them best; `None` where nobody wrote that yet.
    pub quantise: Option<fn(&[f32], &mut [u8])>,
}

/// Where a block of a file has a number, in bytes from its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scale {
    F16(usize),
    F32(usize),
    BF16(usize),
    /// The exponent of a power of two, plus 127.
    E8(usize),
    /// An f32 whose lowest bits are a zero point; how wide both may be.
    WithZeroPoint(usize, Offset),
    /// So many numbers of 8 bits in E4M3.
    E4M3s(usize, usize),
}

impl DType {
    /// The formats in which a frozen weight may rest, from exact to coarse; of those that are made alike ([`Affine::ALL`]), some in which
    /// every part of them occurs.
    pub const WEIGHTS: [Self; 29] = [
        Self::F32,
        Self::BF16,
        Self::F16,
        Self::FP8_E4M3,
        Self::Q8_0,
        Self::LLM_INT8,
        Self::Affine(Affine::INT8_64),
        Self::Q6_K,
        Self::Affine(Affine::INT6_32_BF16),
        Self::Affine(Affine::INT5_64_F16),
        Self::Q5_1,
        Self::Q5_K,
        Self::Q5_0,
        Self::Q4_1,
        Self::Q4_K,
        Self::Q4_0,
        Self::Affine(Affine::INT4_128),
        Self::Affine(Affine::INT4_32_ZBF16),
        Self::IQ4_NL,
        Self::IQ4_XS,
        Self::MXFP4,
        Self::NF4,
        Self::FP4,
        Self::Affine(Affine::INT3_64_BF16),
        Self::Affine(Affine::INT3_64_ZF16),
        Self::Q3_K,
        Self::Affine(Affine::INT2_32_F16),
        Self::Affine(Affine::INT2_128_ZF16),
        Self::Q2_K,
    ];

    pub(crate) fn format(self) -> &'static Format {
        match self {
            Self::F32 => &float::F32,
            Self::BF16 => &float::BF16,
            Self::F16 => &float::F16,
            Self::U32 => &float::U32,
            Self::Q8_0 => &q8_0::FORMAT,
            Self::Q5_1 => &q5_1::FORMAT,
            Self::Q5_0 => &q5_0::FORMAT,
            Self::Q4_1 => &q4_1::FORMAT,
            Self::Q4_0 => &q4_0::FORMAT,
            Self::Q6_K => &q6_k::FORMAT,
            Self::Q5_K => &q5_k::FORMAT,
            Self::Q4_K => &q4_k::FORMAT,
            Self::Q3_K => &q3_k::FORMAT,
            Self::Q2_K => &q2_k::FORMAT,
            Self::IQ4_NL => &iq4_nl::FORMAT,
            Self::IQ4_XS => &iq4_xs::FORMAT,
            Self::MXFP4 => &mxfp4::FORMAT,
            Self::NF4 => &nf4::FORMAT,
            Self::FP4 => &fp4::FORMAT,
            Self::LLM_INT8 => &llm_int8::FORMAT,
            Self::FP8_E4M3 => &fp8_e4m3::FORMAT,
            Self::Affine(affine) => affine.format(),
        }
    }

    /// Can a frozen weight rest in it, as the kernels take it?
    pub fn is_weight(self) -> bool {
        self != Self::U32 && self.in_order() == self
    }

    /// Whether columns rest in an order of their own ([`TensorSource::order`]), in which the kernels need the input too.
    pub fn is_ordered(self) -> bool {
        matches!(self, Self::Affine(affine) if affine.is_ordered())
    }

    /// The format as kernels know it, whatever the order of columns.
    pub fn in_order(self) -> Self {
        match self {
            Self::Affine(affine) => Self::Affine(affine.with_order(false)),
            other => other,
        }
    }

    /// As file formats write it: `Q4_K`.
    pub fn name(self) -> &'static str {
        self.format().name
    }

    /// The format that files call so.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::WEIGHTS.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Elements that a file stores together: a row is a whole number of such blocks.
    pub fn block(self) -> usize {
        self.format().block
    }

    /// Bytes of a block in a file.
    pub fn block_bytes(self) -> usize {
        self.format().block_bytes
    }

    /// Bytes of `values` numbers in a file; `None` if they are no whole number of blocks (or do not fit a `u64`).
    pub fn file_bytes(self, values: u64) -> Option<u64> {
        let block = self.block() as u64;
        values.is_multiple_of(block).then_some(())?;
        (values / block).checked_mul(self.block_bytes() as u64)
    }

    /// Elements of a group on the device: where this many begin, something can be written by itself.
    pub fn group(self) -> usize {
        self.format().group
    }

    /// Bytes of this many elements on the device, in whole groups.
    pub fn bytes(self, elements: usize) -> usize {
        elements.div_ceil(self.format().group) * self.format().group_bytes
    }

    /// Can values of other formats be stored in this one?
    pub fn can_quantise(self) -> bool {
        self != Self::U32 && self.format().quantise.is_some()
    }

    /// The 16 numbers among which the codes of bitsandbytes' formats of 4 bits choose; `None` for others.
    pub(crate) fn table(self) -> Option<&'static [f32; 16]> {
        match self {
            Self::NF4 => Some(&nf4::TABLE),
            Self::FP4 => Some(&fp4::TABLE),
            _ => None,
        }
    }

    /// Reads `out.len()` values from `stored`, blocks of a file; exactly the f32 that the reference library computes.
    ///
    /// `stored` must hold exactly those values; callers have checked it against the tensor's shape, so a difference is a defect of the
    /// program, and surplus on either side is left alone.
    pub(crate) fn dequantise(self, stored: &[u8], out: &mut [f32]) {
        let format = self.format();
        debug_assert_eq!(self.file_bytes(out.len() as u64), Some(stored.len() as u64));
        let blocks = stored.chunks_exact(format.block_bytes).zip(out.chunks_exact_mut(format.block));
        blocks.for_each(|(block, out)| (format.dequantise)(block, out));
    }

    /// Whether every value of these blocks of a file is finite.
    pub(crate) fn is_finite(self, stored: &[u8]) -> bool {
        // An exponent of nothing but ones is infinity or NaN. Numbers by themselves without a branch, so that it is as fast as reading.
        let halves =
            |mask: u16| stored.chunks_exact(2).fold(true, |all, b| all & (u16::from_le_bytes([b[0], b[1]]) & mask != mask));
        match self {
            Self::F32 => (stored.chunks_exact(4))
                .fold(true, |all, b| all & (u32::from_le_bytes([b[0], b[1], b[2], b[3]]) & 0x7f80_0000 != 0x7f80_0000)),
            Self::F16 => halves(0x7c00),
            Self::BF16 => halves(0x7f80),
            _ => {
                let format = self.format();
                let is_finite = |block: &[u8], scale: &Scale| match *scale {
                    Scale::F16(at) => planes::f16_at(block, at).is_finite(),
                    Scale::F32(at) | Scale::WithZeroPoint(at, _) => {
                        f32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]).is_finite()
                    }
                    Scale::BF16(at) => half::bf16::from_le_bytes([block[at], block[at + 1]]).is_finite(),
                    Scale::E4M3s(at, count) => block[at..at + count].iter().fold(true, |all, code| all & (code & 0x7f != 0x7f)),
                    // 2^127 times 12 is beyond f32, and 255 means NaN.
                    Scale::E8(at) => block[at] < 252,
                };
                stored.chunks_exact(format.block_bytes).all(|block| format.scales.iter().all(|scale| is_finite(block, scale)))
            }
        }
    }

    /// Whether every value of these blocks of a file is 0.
    pub(crate) fn is_zero(self, stored: &[u8]) -> bool {
        let mut values = vec![0.0; self.block()];
        stored.chunks_exact(self.block_bytes()).all(|block| {
            self.dequantise(block, &mut values);
            values.iter().all(|value| *value == 0.0)
        })
    }

    /// Blocks of a file as they rest on the device. Rounds nothing.
    pub fn pack(self, stored: &[u8]) -> Vec<u8> {
        let format = self.format();
        let of_group = format.group / format.block * format.block_bytes;
        let mut packed = vec![0; stored.len().div_ceil(of_group) * format.group_bytes];
        let groups = stored.chunks(of_group).zip(packed.chunks_exact_mut(format.group_bytes));
        groups.for_each(|(blocks, group)| (format.pack)(blocks, group));
        packed
    }

    /// Values as blocks of a file in this format, each rounded to what the format holds best.
    ///
    /// # Panics
    /// If the format cannot be written ([`DType::can_quantise`]), values are no whole blocks, or one is no `u32` for that format: mistakes of
    /// the calling code.
    pub fn quantise(self, values: &[f32]) -> Vec<u8> {
        let format = self.format();
        let quantise = format.quantise.unwrap_or_else(|| panic!("nothing is written in {self}"));
        assert!(values.len().is_multiple_of(format.block), "{} values are no whole blocks of {self}", values.len());
        let mut stored = vec![0; values.len() / format.block * format.block_bytes];
        // K-quants search for their scales, so all processors work.
        let blocks = values.par_chunks_exact(format.block).zip(stored.par_chunks_exact_mut(format.block_bytes));
        blocks.with_min_len(4096 / format.block).for_each(|(values, block)| quantise(values, block));
        stored
    }
}

/// Blocks of a file in format `from` as they rest on the device in format `to`; through f32, unless that is the same.
pub fn convert(stored: &[u8], from: DType, to: DType) -> Vec<u8> {
    if from == to {
        return to.pack(stored);
    }
    let mut values = vec![0.0; stored.len() / from.block_bytes() * from.block()];
    from.dequantise(stored, &mut values);
    encode(&values, to)
}

/// Values as they rest on the device in this format, rounded to what it holds.
///
/// # Panics
/// As [`DType::quantise`].
pub fn encode(values: &[f32], dtype: DType) -> Vec<u8> {
    dtype.pack(&dtype.quantise(values))
}

/// Values as they are read back from this format: [`encode`] of them loses nothing where a block's scales are found again.
///
/// # Panics
/// As [`DType::quantise`].
pub fn rounded(values: &[f32], dtype: DType) -> Vec<f32> {
    let mut rounded = vec![0.0; values.len()];
    dtype.dequantise(&dtype.quantise(values), &mut rounded);
    rounded
}

/// The name in lower case, as `--weights` takes it.
impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name().to_lowercase())
    }
}

impl From<DType> for String {
    fn from(dtype: DType) -> Self {
        dtype.to_string()
    }
}

/// In recipes and checkpoints, the values of `--weights`.
impl TryFrom<String> for DType {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let known = || Self::value_variants().iter().map(Self::to_string).collect::<Vec<_>>().join(", ");
        <Self as ValueEnum>::from_str(&name, false).map_err(|_| format!("`{name}` is none of {}", known()))
    }
}

/// What `--weights` may ask for.
impl ValueEnum for DType {
    fn value_variants<'a>() -> &'a [Self] {
        const WRITTEN: [DType; 12] = [
            DType::F32,
            DType::BF16,
            DType::F16,
            DType::Q8_0,
            DType::Q6_K,
            DType::Q5_1,
            DType::Q5_K,
            DType::Q5_0,
            DType::Q4_1,
            DType::Q4_K,
            DType::Q4_0,
            DType::NF4,
        ];
        &WRITTEN
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(&*self.to_string().leak()))
    }
}
