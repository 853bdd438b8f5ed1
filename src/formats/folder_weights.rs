//! The weights of a folder: tensors of safetensors or PyTorch files, one or several, and matrices that several tensors hold together.

use std::{collections::BTreeMap, ops::Range, path::PathBuf};

use super::quantised::{Held, Matrix, Scheme};
use super::stored::Stored;
use crate::storage::source::{byte_range, missing};
use crate::storage::{DType, TensorInfo, TensorSource};
use crate::{Error, Result};

/// The tensors of one or many files that together hold a model or an adapter.
pub struct FolderWeights {
    stored: Stored,
    /// Sorted by name; `held` has the same order.
    tensors: Vec<TensorInfo>,
    /// How a matrix is read that no single tensor holds.
    held: Vec<Option<Box<dyn Held>>>,
    unreadable: Vec<(String, String)>,
    quantised_by: Option<&'static str>,
}

impl FolderWeights {
    /// Opens and checks files: safetensors, or PyTorch's by their ending. Weights are not read.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming the file, and the tensor where there is one, if a file cannot be read, is not sound, or if
    /// two files hold a tensor of the same name.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        Self::of(Stored::open(paths)?, None, Vec::new())
    }

    /// The weights among these tensors, with the matrices that the scheme finds in them, and others that have been found in them.
    pub(super) fn of(stored: Stored, scheme: Option<&Scheme>, others: Vec<Matrix>) -> Result<Self> {
        let matrices = scheme.map_or(Ok(Vec::new()), |scheme| scheme.matrices(&stored))?;
        let in_f32 = matrices.iter().filter(|matrix| matrix.info.storage == DType::F32).count();
        if in_f32 > 0 {
            let (of, place) = (matrices.len(), stored.place(&matrices[0].parts[0]));
            tracing::warn!(
                "{place}: {in_f32} of {of} quantised matrices rest in f32, since no format has groups of their size or such scales"
            );
        }
        let mut found: BTreeMap<String, (TensorInfo, Option<Box<dyn Held>>)> = BTreeMap::new();
        let mut parts = std::collections::HashSet::new();
        for matrix in matrices.into_iter().chain(others) {
            parts.extend(matrix.parts);
            let name = matrix.info.name.clone();
            if found.insert(name.clone(), (matrix.info, Some(matrix.held))).is_some() {
                let place = format!("{}: tensor {name}", stored.place(&name));
                return Err(Error::bad_input(place, "is there twice, in two forms", "Download the model again."));
            }
        }
        let mut unreadable = Vec::new();
        for (name, entry) in stored.entries().filter(|(name, _)| !parts.contains(*name)) {
            let Some(storage) = DType::of_name(&entry.kind).filter(|dtype| dtype.block() == 1) else {
                unreadable.push((name.to_owned(), entry.kind.clone()));
                continue;
            };
            let info = TensorInfo { name: name.to_owned(), shape: entry.shape.clone(), storage, bytes: entry.bytes() as u64 };
            if found.insert(name.to_owned(), (info, None)).is_some() {
                let place = format!("{}: tensor {name}", stored.place(name));
                return Err(Error::bad_input(place, "is there both quantised and by itself", "Download the model again."));
            }
        }
        let (tensors, held) = found.into_values().unzip();
        Ok(Self { stored, tensors, held, unreadable, quantised_by: scheme.map(Scheme::name) })
    }

    /// The library that quantised matrices of the folder, as its config calls it.
    pub fn quantised_by(&self) -> Option<&'static str> {
        self.quantised_by
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.tensors.binary_search_by(|info| info.name.as_str().cmp(name)).ok()
    }
}

impl TensorSource for FolderWeights {
    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn unreadable(&self) -> &[(String, String)] {
        &self.unreadable
    }

    fn place(&self, name: &str) -> String {
        let part = self.index(name).and_then(|index| self.held[index].as_ref()).map(|held| held.part());
        self.stored.place(part.unwrap_or(name))
    }

    fn order(&self, name: &str) -> Option<Vec<u32>> {
        self.held[self.index(name)?].as_ref()?.order()
    }

    fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<u8>> {
        let Some(index) = self.index(name) else { return Err(missing(self.place(name), name)) };
        let info = &self.tensors[index];
        let bytes = byte_range(&self.place(name), info, &rows)?;
        match (&self.held[index], self.stored.get(name)) {
            (Some(held), _) => held.read(&self.stored, rows),
            (None, Some(entry)) => self.stored.read(entry, bytes),
            (None, None) => Err(missing(self.place(name), name)),
        }
    }
}
