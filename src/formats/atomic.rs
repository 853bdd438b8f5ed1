//! Files that are either the old version or the new one, never half of one.
//!
//! The new content goes to a temporary name in the same folder (a rename across file systems would be a copy), is flushed to
//! the disk, and takes the final name in one step; then the folder itself is flushed, so that the new name survives a power
//! cut. A process that is killed in between leaves the old file untouched and at most one `.NAME.partial` beside it, which
//! the next write of the same file replaces. Two processes must not write the same path at the same time.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// Writes `path` through `fill`, all or nothing. The folder must exist.
///
/// # Errors
/// [`Error::Failed`] naming the file if it cannot be created, filled, flushed or renamed; the old content is then still there.
pub fn write(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    let temporary = temporary_name(path)
        .ok_or_else(|| Error::bad_input(path.display(), "this is not the name of a file", "Give the path of a file to write."))?;
    let written = fill_and_rename(path, &temporary, fill);
    if written.is_err() {
        // The error that matters is the one above; a temporary file that cannot be removed either changes nothing.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(|error| {
        Error::failed(
            path.display(),
            format!("cannot be written: {error}"),
            "Check that the folder exists, that it may be written to, and that the disk is not full.",
        )
    })
}

/// Writes `bytes` to `path`, all or nothing. See [`write()`].
///
/// # Errors
/// As [`write()`].
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, |file| file.write_all(bytes))
}

fn fill_and_rename(path: &Path, temporary: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(temporary)?);
    fill(&mut file)?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(temporary, path)?;
    flush_folder(path)
}

/// `folder/.NAME.partial` for `folder/NAME`.
fn temporary_name(path: &Path) -> Option<PathBuf> {
    let mut name = OsString::from(".");
    name.push(path.file_name()?);
    name.push(".partial");
    Some(path.with_file_name(name))
}

#[cfg(unix)]
fn flush_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

/// Windows offers no way to flush a folder; NTFS journals the rename.
#[cfg(not(unix))]
fn flush_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}
