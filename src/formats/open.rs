//! The one place where files of the user are opened for reading: models, tokenizers, adapters, data.
//!
//! A Git LFS pointer looks like any other small file to what reads it; here it is called what it is.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::{Error, Result, files};

/// How a pointer of Git Large File Storage begins (its specification, version 1).
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Opens a regular file. `proposal`: what to do if it cannot be read.
///
/// # Errors
/// It is not there, may not be read, is no regular file (opening a pipe would wait for ever), or is a Git LFS pointer.
pub(crate) fn file(path: &Path, proposal: &str) -> Result<File> {
    let unreadable = |cause: io::Error| Error::bad_input(path.display(), format!("cannot be read: {cause}"), proposal);
    let mut file = files::open(path).map_err(unreadable)?;
    let mut head = Vec::new();
    (&mut file).take(LFS_POINTER.len() as u64).read_to_end(&mut head).map_err(unreadable)?;
    if head == LFS_POINTER {
        return Err(pointer(path));
    }
    io::Seek::rewind(&mut file).map_err(unreadable)?;
    Ok(file)
}

/// The whole content of a regular file of at most `most` bytes.
///
/// # Errors
/// As [`file`], and if it is longer.
pub(crate) fn read(path: &Path, most: u64, proposal: &str) -> Result<Vec<u8>> {
    files::read_all(file(path, proposal)?, most)
        .map_err(|cause| Error::bad_input(path.display(), format!("cannot be read: {cause}"), proposal))
}

/// The whole content of a file with text, a description.
///
/// # Errors
/// As [`read`]; it is not UTF-8.
pub(crate) fn read_text(path: &Path, proposal: &str) -> Result<String> {
    let not_text = |_| Error::bad_input(path.display(), "cannot be read: it is not UTF-8 text", proposal);
    String::from_utf8(read(path, files::DESCRIPTION, proposal)?).map_err(not_text)
}

fn pointer(path: &Path) -> Error {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Error::bad_input(
        path.display(),
        "is a Git LFS pointer, which stands for the file but does not hold it",
        format!("Fetch the file: run `git lfs install` once, then `git lfs pull` in this folder; or download {name} by itself."),
    )
}
