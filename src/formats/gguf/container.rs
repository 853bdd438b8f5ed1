//! The container: header, metadata and tensor directory of a GGUF file, versions 2 and 3, little-endian.
//!
//! The specification is `docs/gguf.md` of the ggml project. A file is bytes from anywhere, so nothing is believed: every
//! length is compared with what is left of the file before it is used, arrays stay in the file until they are asked for, and
//! the directory's size is bounded by the file's, since every entry takes some bytes of it.

use std::{collections::HashMap, ops::Range};

use super::types::GgmlType;
use crate::{Error, Result};

/// Bytes of the smallest metadata pair: length of an empty key, type, one byte.
const SMALLEST_PAIR: usize = 8 + 4 + 1;
/// Bytes of the smallest tensor entry: length of an empty name, number of dimensions, one of them, type, offset.
const SMALLEST_TENSOR: usize = 8 + 4 + 8 + 4 + 8;
/// The specification allows 4 dimensions.
const MOST_DIMENSIONS: u32 = 4;
/// The specification's default for `general.alignment`.
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;

/// A parsed directory. Offsets are absolute and lie inside the file.
#[derive(Debug, Default)]
pub struct Container {
    pub version: u32,
    pub metadata: HashMap<String, MetaValue>,
    /// Keys in the order of the file, and where their values lie in it: the type's id, then the value.
    pub pairs: Vec<(String, Range<usize>)>,
    /// In the order of the file.
    pub tensors: Vec<RawTensor>,
}

/// A metadata value. Numbers keep their bits; arrays and strings are ranges of the file.
#[derive(Clone, Debug, PartialEq)]
pub enum MetaValue {
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    /// UTF-8, checked.
    String(String),
    /// `count` elements of type `element` in these bytes of the file.
    Array {
        element: ValueType,
        count: usize,
        bytes: Range<usize>,
    },
}

/// One entry of the tensor directory.
#[derive(Clone, Debug)]
pub struct RawTensor {
    /// ggml's name: `blk.3.attn_q.weight`.
    pub name: String,
    /// `[out, in]`: the file's order of dimensions reversed.
    pub shape: Vec<usize>,
    /// The numeric type, or the id of one that is not known here.
    pub kind: std::result::Result<GgmlType, u32>,
    /// Where the data lies in the file; empty at the start of the data if the type is not known.
    pub bytes: Range<usize>,
}

/// The types of metadata values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

/// In the order of their ids.
const VALUE_TYPES: [ValueType; 13] = {
    use ValueType::*;
    [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64]
};

impl ValueType {
    fn from_id(id: u32) -> Option<Self> {
        VALUE_TYPES.get(usize::try_from(id).ok()?).copied()
    }

    /// What stands for it in a file.
    pub(super) fn id(self) -> u32 {
        VALUE_TYPES.iter().position(|kind| *kind == self).unwrap_or_default() as u32
    }

    /// Bytes of a value, where all values of the type have the same.
    fn fixed_size(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

impl Container {
    /// Reads the directory of `file`, the whole file's bytes; `place` is its path.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming the byte, key or tensor at which the file stops being a GGUF file.
    pub fn parse(place: &str, file: &[u8]) -> Result<Self> {
        let mut cursor = Cursor { place, file, at: 0 };
        if cursor.take(4, "the magic number")? != b"GGUF" {
            return Err(Error::bad_input(place, "does not begin with `GGUF`", "Give a .gguf file or a Hugging Face folder."));
        }
        let version = cursor.u32("the version")?;
        if !(2..=3).contains(&version) {
            let problem = match version.swap_bytes() {
                2 | 3 => "is a big-endian GGUF file".to_owned(),
                _ => format!("is GGUF version {version}; graftling reads 2 and 3"),
            };
            return Err(Error::bad_input(place, problem, "Convert the model again with a current convert_hf_to_gguf.py."));
        }
        let tensor_count = cursor.count("the number of tensors", SMALLEST_TENSOR)?;
        let metadata_count = cursor.count("the number of metadata values", SMALLEST_PAIR)?;

        let mut metadata = HashMap::with_capacity(metadata_count);
        let mut pairs = Vec::with_capacity(metadata_count);
        for _ in 0..metadata_count {
            let key = cursor.string("a metadata key")?;
            let start = cursor.at;
            let kind = cursor.value_type(&key)?;
            let value = cursor.value(kind, &key)?;
            pairs.push((key.clone(), start..cursor.at));
            if metadata.insert(key.clone(), value).is_some() {
                return Err(cursor.bad(&format!("metadata key {key}"), "occurs twice"));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(MetaValue::Unsigned(alignment)) if alignment.is_power_of_two() && *alignment <= 1 << 20 => *alignment,
            Some(other) => return Err(cursor.bad("metadata key general.alignment", &format!("{other:?} is no power of two"))),
        };
        let mut entries = Vec::with_capacity(tensor_count);
        for _ in 0..tensor_count {
            entries.push(cursor.tensor_entry()?);
        }
        let data = (cursor.at as u64).next_multiple_of(alignment);
        let tensors = entries.into_iter().map(|entry| entry.locate(place, file.len(), data, alignment)).collect::<Result<_>>()?;
        let container = Self { version, metadata, pairs, tensors };
        container.refuse_overlaps(place)?;
        Ok(container)
    }

    /// Two names, or two tensors, for the same bytes are a sign of a forged or damaged file; without them, all tensors
    /// together are not larger than the file, which bounds what a loader allocates.
    fn refuse_overlaps(&self, place: &str) -> Result<()> {
        let mut order: Vec<&RawTensor> = self.tensors.iter().filter(|tensor| tensor.kind.is_ok()).collect();
        order.sort_by_key(|tensor| tensor.bytes.start);
        for pair in order.windows(2) {
            if pair[0].bytes.end > pair[1].bytes.start {
                let problem = format!("overlaps tensor {}", pair[1].name);
                return Err(Error::bad_input(format!("{place}: tensor {}", pair[0].name), problem, DAMAGED));
            }
        }
        Ok(())
    }
}

/// What to do about a file that breaks the format's rules.
pub(super) const DAMAGED: &str = "The file is damaged or was cut off: download or convert it again.";

/// Reads forward through the file; every read is checked against its end.
struct Cursor<'a> {
    place: &'a str,
    file: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn bad(&self, what: &str, problem: &str) -> Error {
        Error::bad_input(format!("{}: {what}", self.place), problem, DAMAGED)
    }

    fn take(&mut self, bytes: usize, what: &str) -> Result<&'a [u8]> {
        let rest = &self.file[self.at..];
        let Some(taken) = rest.get(..bytes) else {
            let problem = format!("needs {bytes} bytes at byte {}, but the file ends after {} more", self.at, rest.len());
            return Err(self.bad(what, &problem));
        };
        self.at += bytes;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N, what)?);
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count of things that take at least `smallest` bytes each, refused if so many cannot follow.
    fn count(&mut self, what: &str, smallest: usize) -> Result<usize> {
        let count = self.u64(what)?;
        let most = (self.file.len() - self.at) / smallest.max(1);
        match usize::try_from(count) {
            Ok(count) if count <= most => Ok(count),
            _ => Err(self.bad(what, &format!("is {count}, but the rest of the file has room for {most} at most"))),
        }
    }

    fn string(&mut self, what: &str) -> Result<String> {
        let length = self.count(what, 1)?;
        let bytes = self.take(length, what)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.bad(what, "is not valid UTF-8"))?;
        Ok(text.to_owned())
    }

    fn value_type(&mut self, what: &str) -> Result<ValueType> {
        let id = self.u32(what)?;
        ValueType::from_id(id).ok_or_else(|| self.bad(what, &format!("has the unknown value type {id}")))
    }

    fn value(&mut self, kind: ValueType, what: &str) -> Result<MetaValue> {
        Ok(match kind {
            ValueType::U8 => MetaValue::Unsigned(u64::from(self.array::<1>(what)?[0])),
            ValueType::I8 => MetaValue::Signed(i64::from(self.array::<1>(what)?[0] as i8)),
            ValueType::U16 => MetaValue::Unsigned(u64::from(u16::from_le_bytes(self.array(what)?))),
            ValueType::I16 => MetaValue::Signed(i64::from(i16::from_le_bytes(self.array(what)?))),
            ValueType::U32 => MetaValue::Unsigned(u64::from(self.u32(what)?)),
            ValueType::I32 => MetaValue::Signed(i64::from(i32::from_le_bytes(self.array(what)?))),
            ValueType::U64 => MetaValue::Unsigned(self.u64(what)?),
            ValueType::I64 => MetaValue::Signed(i64::from_le_bytes(self.array(what)?)),
            ValueType::F32 => MetaValue::F32(f32::from_le_bytes(self.array(what)?)),
            ValueType::F64 => MetaValue::F64(f64::from_le_bytes(self.array(what)?)),
            ValueType::Bool => MetaValue::Bool(self.array::<1>(what)?[0] != 0),
            ValueType::String => MetaValue::String(self.string(what)?),
            ValueType::Array => {
                let element = self.value_type(what)?;
                let smallest = match element {
                    ValueType::Array => return Err(self.bad(what, "is an array of arrays, which no model uses")),
                    ValueType::String => 8,
                    fixed => fixed.fixed_size().unwrap_or(1),
                };
                let count = self.count(what, smallest)?;
                let start = self.at;
                match element.fixed_size() {
                    // The product fits: `count` has been compared with the rest of the file.
                    Some(size) => drop(self.take(count * size, what)?),
                    None => {
                        for _ in 0..count {
                            let length = self.count(what, 1)?;
                            self.take(length, what)?;
                        }
                    }
                }
                MetaValue::Array { element, count, bytes: start..self.at }
            }
        })
    }

    fn tensor_entry(&mut self) -> Result<TensorEntry> {
        let name = self.string("a tensor's name")?;
        let what = format!("tensor {name}");
        let dimensions = self.u32(&what)?;
        if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
            return Err(self.bad(&what, &format!("has {dimensions} dimensions, not 1 to {MOST_DIMENSIONS}")));
        }
        let mut shape = Vec::with_capacity(dimensions as usize);
        for _ in 0..dimensions {
            let size = self.u64(&what)?;
            match usize::try_from(size) {
                Ok(size) if size > 0 => shape.push(size),
                _ => return Err(self.bad(&what, &format!("has a dimension of {size}"))),
            }
        }
        shape.reverse();
        let kind = self.u32(&what)?;
        let offset = self.u64(&what)?;
        Ok(TensorEntry { name, shape, kind, offset })
    }
}

/// A directory entry as the file has it: the offset is relative to the start of the data.
struct TensorEntry {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

impl TensorEntry {
    fn locate(self, place: &str, file_len: usize, data: u64, alignment: u64) -> Result<RawTensor> {
        let bad = |problem: String| Error::bad_input(format!("{place}: tensor {}", self.name), problem, DAMAGED);
        let Some(kind) = GgmlType::from_id(self.kind) else {
            return Ok(RawTensor { name: self.name, shape: self.shape, kind: Err(self.kind), bytes: 0..0 });
        };
        let row = self.shape.last().copied().unwrap_or(1) as u64;
        if !row.is_multiple_of(kind.block_values() as u64) {
            return Err(bad(format!("has rows of {row} values, no whole number of {} blocks", kind.name())));
        }
        if !self.offset.is_multiple_of(alignment) {
            return Err(bad(format!("begins at offset {}, no multiple of the alignment {alignment}", self.offset)));
        }
        let values = self.shape.iter().try_fold(1_u64, |product, &size| product.checked_mul(size as u64));
        let bytes = values.and_then(|values| (values / kind.block_values() as u64).checked_mul(kind.block_bytes() as u64));
        let start = data.checked_add(self.offset);
        let end = start.zip(bytes).and_then(|(start, bytes)| start.checked_add(bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_len as u64 => {
                Ok(RawTensor { name: self.name, shape: self.shape, kind: Ok(kind), bytes: start as usize..end as usize })
            }
            _ => Err(bad(format!("of shape {:?} in {} does not fit: the file has {file_len} bytes", self.shape, kind.name()))),
        }
    }
}

impl MetaValue {
    /// A whole number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::Unsigned(value) => Some(value),
            Self::Signed(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    /// Any number. An f32 is read as the decimal it was written from.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Unsigned(value) => Some(value as f64),
            Self::Signed(value) => Some(value as f64),
            Self::F32(value) => Some(crate::architecture::shortest_decimal(value)),
            Self::F64(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The texts of an array of strings in `file`; `None` if it is none, or if one is not UTF-8.
    pub fn strings(&self, file: &[u8]) -> Option<Vec<String>> {
        let Self::Array { element: ValueType::String, count, bytes } = self else { return None };
        let mut cursor = Cursor { place: "", file: file.get(bytes.clone())?, at: 0 };
        let mut texts = Vec::with_capacity(*count);
        for _ in 0..*count {
            texts.push(cursor.string("").ok()?);
        }
        Some(texts)
    }

    /// The values of an array of numbers in `file`; `None` if it is none.
    pub fn numbers(&self, file: &[u8]) -> Option<Vec<f64>> {
        let Self::Array { element, count, bytes } = self else { return None };
        element.fixed_size()?;
        let mut cursor = Cursor { place: "", file: file.get(bytes.clone())?, at: 0 };
        let mut values = Vec::with_capacity(*count);
        for _ in 0..*count {
            values.push(match cursor.value(*element, "").ok()? {
                // Not as_f64: scores are data, which must stay the f32 that they are.
                MetaValue::F32(value) => f64::from(value),
                other => other.as_f64()?,
            });
        }
        Some(values)
    }
}
