//! Opens files by names that a user or a stranger's file gives: regular files only, and no more of them than is sensible.
//!
//! Opening a named pipe waits for a writer that may never come, and a device such as `/dev/zero` has no end.

use std::fs::{File, FileType, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// Bytes of the longest description that is read: a config, an index, a template. The longest known have some megabytes; as a tree of
/// values it takes a few tens of times as much.
pub const DESCRIPTION: u64 = 32 << 20;
/// Bytes of the longest tokenizer that is read. The longest known have 35 MB.
pub const TOKENIZER: u64 = 256 << 20;
/// For files whose length is the user's affair.
pub const ANY: u64 = u64::MAX;

/// Opens a regular file for reading.
///
/// # Errors
/// Also if it is something else, with the kind in the message.
pub fn open(path: &Path) -> Result<File> {
    // Opening alone may already do something: a tape rewinds. So the name is looked at first, and what was opened again.
    regular(std::fs::metadata(path)?.file_type())?;
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path)?;
    regular(file.metadata()?.file_type())?;
    Ok(file)
}

/// All bytes of a regular file of at most `most` bytes.
///
/// # Errors
/// As [`open`], and if it is longer.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    read_all(open(path)?, most)
}

/// All bytes of an open file of at most `most` bytes.
///
/// # Errors
/// If it is longer or cannot be read.
pub fn read_all(file: File, most: u64) -> Result<Vec<u8>> {
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    if length <= most {
        bytes.try_reserve_exact(usize::try_from(length).unwrap_or(usize::MAX))?;
        file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    }
    // A file in /proc, or one that is being written, is longer than it says.
    match length.max(bytes.len() as u64) > most {
        true => Err(Error::other(format!("it has more than {} MiB, which no file of this kind has", most >> 20))),
        false => Ok(bytes),
    }
}

/// As [`read`], as text.
///
/// # Errors
/// As [`read`], and if it is not UTF-8.
pub fn read_to_string(path: &Path, most: u64) -> Result<String> {
    String::from_utf8(read(path, most)?)
        .map_err(|cause| Error::new(ErrorKind::InvalidData, format!("it is not UTF-8 text: {}", cause.utf8_error())))
}

/// What kind of thing this is, if it is neither a regular file nor a folder.
pub fn special(kind: FileType) -> Option<&'static str> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kinds = [
            (kind.is_fifo(), "a pipe"),
            (kind.is_char_device() || kind.is_block_device(), "a device"),
            (kind.is_socket(), "a socket"),
        ];
        if let Some((_, name)) = kinds.into_iter().find(|(is, _)| *is) {
            return Some(name);
        }
    }
    (!kind.is_file() && !kind.is_dir()).then_some("something special")
}

fn regular(kind: FileType) -> Result<()> {
    let name = if kind.is_dir() { Some("a folder") } else { special(kind) };
    name.map_or(Ok(()), |name| Err(Error::other(format!("it is {name}, not a regular file: write the content to a file"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_files_are_read_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read_to_string(&path, 4).unwrap(), "four");
        assert!(read(&path, 3).unwrap_err().to_string().contains("more than"));
        assert!(read(folder.path(), ANY).unwrap_err().to_string().contains("a folder"));
        assert_eq!(read(&folder.path().join("none"), ANY).unwrap_err().kind(), ErrorKind::NotFound);
        std::fs::write(&path, b"\xff").unwrap();
        assert!(read_to_string(&path, 4).unwrap_err().to_string().contains("UTF-8"));
        if cfg!(target_os = "linux") {
            assert!(read(Path::new("/dev/zero"), ANY).unwrap_err().to_string().contains("a device"));
        }
    }
}
