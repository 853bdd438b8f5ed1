//! Opening files in a folder that others write into as well: as [`files`], and no link is followed.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use crate::files;

/// Opens a file that is there.
///
/// # Errors
/// It is not there, is no regular file, or cannot be opened.
pub fn open(path: &Path) -> io::Result<File> {
    open_with(path, OpenOptions::new().read(true))
}

/// Opens, or makes, a file as `options` say. It must not be opened with `truncate`.
///
/// # Errors
/// It is no regular file, or cannot be opened.
pub fn open_with(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let no_plain_file = || io::Error::new(io::ErrorKind::InvalidInput, "it is no ordinary file (a link, a folder or a pipe)");
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    if std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(no_plain_file());
    }
    let file = options.open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(no_plain_file()) }
}

/// The content of a file of at most `most` bytes.
///
/// # Errors
/// As [`open`], or it has more bytes.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    files::read_all(open(path)?, most)
}

/// How many names a file has; 1 where the system does not say.
pub fn names(file: &File) -> io::Result<u64> {
    #[cfg(unix)]
    return Ok(std::os::unix::fs::MetadataExt::nlink(&file.metadata()?));
    #[cfg(not(unix))]
    return file.metadata().map(|_| 1);
}
