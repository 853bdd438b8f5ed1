//! Writes GGUF files, version 3: metadata in the order in which they are given, then the directory, then each tensor as it comes.
//!
//! The directory stands before the data, so types and shapes of all tensors are said first; their bytes are then asked for one after the
//! other, and no more of a model than a few rows is ever in memory.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::container::{DEFAULT_ALIGNMENT, ValueType};
use crate::formats::atomic;
use crate::storage::DType;
use crate::{Error, Result};

/// A metadata value, as the file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    pub key: String,
    /// The type's id, then the value.
    bytes: Vec<u8>,
}

impl Pair {
    /// A value as another file has it: the type's id, then the value.
    pub fn raw(key: impl Into<String>, bytes: &[u8]) -> Self {
        Self { key: key.into(), bytes: bytes.to_vec() }
    }

    fn new(key: impl Into<String>, kind: ValueType, value: &[u8]) -> Self {
        Self { key: key.into(), bytes: [&kind.id().to_le_bytes()[..], value].concat() }
    }

    /// A whole number; what counts and ids are.
    pub fn u32(key: impl Into<String>, value: u32) -> Self {
        Self::new(key, ValueType::U32, &value.to_le_bytes())
    }

    /// A number.
    pub fn f32(key: impl Into<String>, value: f32) -> Self {
        Self::new(key, ValueType::F32, &value.to_le_bytes())
    }

    /// True or false.
    pub fn flag(key: impl Into<String>, value: bool) -> Self {
        Self::new(key, ValueType::Bool, &[u8::from(value)])
    }

    /// A text.
    pub fn string(key: impl Into<String>, value: &str) -> Self {
        Self::new(key, ValueType::String, &string(value))
    }

    /// Several texts.
    pub fn strings<T: AsRef<str>>(key: impl Into<String>, values: &[T]) -> Self {
        Self::array(key, ValueType::String, values.len(), values.iter().flat_map(|value| string(value.as_ref())).collect())
    }

    /// Several numbers.
    pub fn f32s(key: impl Into<String>, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::array(key, ValueType::F32, values.len(), bytes)
    }

    /// Several whole numbers.
    pub fn i32s(key: impl Into<String>, values: &[i32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::array(key, ValueType::I32, values.len(), bytes)
    }

    /// Several flags.
    pub fn flags(key: impl Into<String>, values: &[bool]) -> Self {
        Self::array(key, ValueType::Bool, values.len(), values.iter().map(|&value| u8::from(value)).collect())
    }

    fn array(key: impl Into<String>, element: ValueType, count: usize, bytes: Vec<u8>) -> Self {
        let head = [&element.id().to_le_bytes()[..], &(count as u64).to_le_bytes()].concat();
        Self::new(key, ValueType::Array, &[head, bytes].concat())
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A tensor that a file will have.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// ggml's name: `blk.3.attn_q.weight`.
    pub name: String,
    /// `[out, in]`, or `[features]`.
    pub shape: Vec<usize>,
    pub dtype: DType,
}

impl Planned {
    /// Bytes of its data.
    ///
    /// # Errors
    /// If a row is no whole number of blocks, or ggml has no such type.
    fn bytes(&self) -> Result<u64> {
        let row = self.shape.last().copied().unwrap_or(0) as u64;
        let rows = self.shape.iter().rev().skip(1).map(|&size| size as u64).product::<u64>();
        let bytes = self.dtype.file_bytes(row).and_then(|bytes| bytes.checked_mul(rows));
        bytes.ok_or_else(|| {
            let problem = format!("has rows of {row} values, no whole number of blocks of {}", self.dtype);
            Error::bad_input(format!("tensor {}", self.name), problem, "Choose a type with smaller blocks, such as q8_0 or f16.")
        })
    }
}

/// Header, metadata and directory of a file, and the bytes of each tensor's data.
///
/// # Errors
/// If a tensor cannot be stored in its type.
pub fn directory(pairs: &[Pair], tensors: &[Planned]) -> Result<(Vec<u8>, Vec<u64>)> {
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((pairs.len() as u64).to_le_bytes());
    for pair in pairs {
        out.extend(string(&pair.key));
        out.extend(&pair.bytes);
    }
    let (mut offset, mut sizes) = (0_u64, Vec::with_capacity(tensors.len()));
    for tensor in tensors {
        let bytes = tensor.bytes()?;
        let kind = super::GgmlType::of_dtype(tensor.dtype).ok_or_else(|| {
            let problem = format!("would be {}, which GGUF files do not have", tensor.dtype);
            Error::bad_input(format!("tensor {}", tensor.name), problem, "Choose another type.")
        })?;
        out.extend(string(&tensor.name));
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|&size| out.extend((size as u64).to_le_bytes()));
        out.extend(kind.id().to_le_bytes());
        out.extend(offset.to_le_bytes());
        sizes.push(bytes);
        offset = (offset + bytes).next_multiple_of(DEFAULT_ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
    Ok((out, sizes))
}

/// Takes the bytes of one tensor, in order.
pub struct Sink<'a> {
    file: &'a mut BufWriter<File>,
    written: u64,
}

impl Sink<'_> {
    /// More bytes of the tensor.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.written += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}

/// Writes a file, all or nothing. `data` puts the bytes of the tensor with this number, in the order of `tensors`.
///
/// # Errors
/// As [`directory`], as [`atomic::write()`], and what `data` gives.
pub fn write(
    path: &Path,
    pairs: &[Pair],
    tensors: &[Planned],
    mut data: impl FnMut(usize, &mut Sink<'_>) -> Result<()>,
) -> Result<()> {
    let (head, sizes) = directory(pairs, tensors)?;
    atomic::write_with(path, |file| {
        let full = |error| atomic::unwritable(path, &error);
        file.write_all(&head).map_err(full)?;
        for (number, &size) in sizes.iter().enumerate() {
            let mut sink = Sink { file, written: 0 };
            data(number, &mut sink)?;
            assert_eq!(sink.written, size, "{} has {} bytes", tensors[number].name, sink.written);
            let padding = size.next_multiple_of(DEFAULT_ALIGNMENT) - size;
            file.write_all(&[0; DEFAULT_ALIGNMENT as usize][..padding as usize]).map_err(full)?;
        }
        Ok(())
    })
}
