//! A file with weights: what describes them is memory-mapped, the numbers are read as they are asked for.
//!
//! Numbers are not taken from the mapping, since every page of it that was touched counts as memory of the process until the file is
//! closed: a model would be held twice, here and on the device.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use memmap2::Mmap;

use super::open;
use crate::{Error, Result};

pub(super) struct WeightFile {
    pub(super) path: PathBuf,
    map: Mmap,
    file: Mutex<File>,
}

impl WeightFile {
    /// Opens a file for reading.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let unreadable = |error| unreadable(path, &error);
        let file = open::file(path, CHECK)?;
        // SAFETY: the mapping is read-only. A file that another process cuts short while it is mapped would end this process with
        // SIGBUS; model files are not written to while they are in use.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        Ok(Self { path: path.to_owned(), map, file: Mutex::new(file) })
    }

    /// The whole file, for what describes its tensors.
    pub(super) fn mapped(&self) -> &[u8] {
        &self.map
    }

    /// A copy of these bytes, which lie inside the file.
    pub(super) fn read(&self, range: Range<usize>) -> Result<Vec<u8>> {
        let mut bytes = vec![0; range.len()];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let read = file.seek(SeekFrom::Start(range.start as u64)).and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|error| unreadable(&self.path, &error))?;
        Ok(bytes)
    }
}

const CHECK: &str = "Check the path and that the file may be read.";

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::bad_input(path.display(), format!("cannot be read: {error}"), CHECK)
}
