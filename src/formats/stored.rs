//! The tensors of a folder's weight files as they are stored, of whatever type: what [`super::folder_weights`] makes weights of.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use super::{pytorch, safetensors, weight_file::WeightFile};
use crate::{Error, Result};

/// A tensor as a file's directory has it, checked: all its elements lie inside the file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The type's name in safetensors: `BF16`, `I32`, `F8_E4M3`.
    pub kind: String,
    pub shape: Vec<usize>,
    /// Where the first element lies, in bytes from the beginning of the file.
    pub at: usize,
    /// Elements from one to the next along each dimension, where they do not follow each other row by row.
    pub strides: Option<Vec<usize>>,
    /// Number of the file.
    file: usize,
}

impl Entry {
    pub(super) fn new(kind: String, shape: Vec<usize>, at: usize, strides: Option<Vec<usize>>) -> Self {
        Self { kind, shape, at, strides, file: 0 }
    }

    /// Values in a row: the product of all dimensions but the first.
    pub(super) fn row_values(&self) -> usize {
        self.shape.iter().skip(1).fold(1, |values, &size| values.saturating_mul(size))
    }

    /// Bytes of all values.
    pub(super) fn bytes(&self) -> usize {
        let values = self.shape.iter().fold(1_usize, |values, &size| values.saturating_mul(size));
        values.saturating_mul(element_bits(&self.kind).unwrap_or(0) as usize / 8)
    }
}

/// The tensors of one or many files that together hold a model.
pub(super) struct Stored {
    files: Vec<WeightFile>,
    entries: BTreeMap<String, Entry>,
}

impl Stored {
    /// Opens and checks files: safetensors, or PyTorch's by their ending. Weights are not read.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming the file, and the tensor where there is one, if a file cannot be read, is not sound, or if two files hold
    /// a tensor of the same name.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut stored = Self { files: Vec::with_capacity(paths.len()), entries: BTreeMap::new() };
        for path in paths {
            let file = WeightFile::open(path)?;
            let directory = match is_pytorch(path) {
                true => pytorch::directory(path, file.mapped())?,
                false => safetensors::directory(path, file.mapped())?,
            };
            for (name, entry) in directory {
                let entry = Entry { file: stored.files.len(), ..entry };
                if let Some(other) = stored.entries.insert(name.clone(), entry) {
                    let problem =
                        format!("is also in {}", stored.files.get(other.file).map_or(path, |file| &file.path).display());
                    let proposal = "Keep only one set of weights in the folder.";
                    return Err(Error::bad_input(format!("{}: tensor {name}", path.display()), problem, proposal));
                }
            }
            stored.files.push(file);
        }
        Ok(stored)
    }

    /// The same tensors under other names.
    ///
    /// # Errors
    /// [`Error::BadInput`] if two have one name then.
    pub(super) fn renamed(mut self, rename: impl Fn(&str) -> String) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for (old, entry) in std::mem::take(&mut self.entries) {
            let place = format!("{}: tensor {old}", self.files[entry.file].path.display());
            if entries.insert(rename(&old), entry).is_some() {
                return Err(Error::bad_input(place, "is there under two names", "Keep only one set of weights in the folder."));
            }
        }
        Ok(Self { entries, ..self })
    }

    /// All tensors, sorted by name.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// The file that holds the tensor, or the folder if none does.
    pub(super) fn place(&self, name: &str) -> String {
        match (self.get(name), self.files.first()) {
            (Some(entry), _) => self.files[entry.file].path.display().to_string(),
            (None, Some(file)) if self.files.len() == 1 => file.path.display().to_string(),
            (None, Some(file)) => file.path.parent().unwrap_or(&file.path).display().to_string(),
            (None, None) => String::from("no file"),
        }
    }

    /// Bytes `bytes` of the tensor's values, row by row and whole elements.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn read(&self, entry: &Entry, bytes: Range<usize>) -> Result<Vec<u8>> {
        let file = &self.files[entry.file];
        let Some(strides) = &entry.strides else { return file.read(entry.at + bytes.start..entry.at + bytes.end) };
        let size = element_bits(&entry.kind).unwrap_or(8) as usize / 8;
        let place = |mut index: usize| {
            entry.shape.iter().zip(strides).rev().fold(0, |place, (&length, stride)| {
                let along = index % length.max(1);
                index /= length.max(1);
                place + along * stride
            })
        };
        let places: Vec<usize> = (bytes.start / size..bytes.end / size).map(place).collect();
        let (Some(first), Some(last)) = (places.iter().min(), places.iter().max()) else { return Ok(Vec::new()) };
        let region = file.read(entry.at + first * size..entry.at + (last + 1) * size)?;
        Ok(places.iter().flat_map(|place| &region[(place - first) * size..][..size]).copied().collect())
    }

    /// Columns `columns` of rows `rows` of a tensor of words of 4 bytes, row by row.
    ///
    /// # Errors
    /// As [`Stored::read`].
    pub(super) fn read_words(&self, entry: &Entry, rows: Range<usize>, columns: Range<usize>) -> Result<Vec<u32>> {
        let width = entry.row_values();
        let mut words = Vec::with_capacity(rows.len() * columns.len());
        let whole = columns == (0..width);
        let pieces = if whole { vec![rows.start * width..rows.end * width] } else { Vec::new() };
        let rows = if whole { 0..0 } else { rows };
        for piece in pieces.into_iter().chain(rows.map(|row| row * width + columns.start..row * width + columns.end)) {
            let bytes = self.read(entry, 4 * piece.start..4 * piece.end)?;
            words.extend(bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])));
        }
        Ok(words)
    }
}

/// Whether the file is one that `torch.save` wrote, by its ending.
pub(super) fn is_pytorch(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["bin", "pt", "pth"].iter().any(|pytorch| extension == *pytorch))
}

/// Bits of one value, for the types whose size is checked.
pub(super) fn element_bits(kind: &str) -> Option<u64> {
    match kind {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" => Some(8),
        "F16" | "BF16" | "U16" | "I16" => Some(16),
        "F32" | "U32" | "I32" => Some(32),
        "F64" | "U64" | "I64" => Some(64),
        _ => None,
    }
}
