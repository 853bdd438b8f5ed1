//! One process a folder: the lock that keeps two runs from writing into the same `--out`.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::{Error, Result};

/// The lock file's name inside the folder. It stays there when the run ends: removing it would let a process that has just
/// opened it hold a lock that nobody else can see.
pub const LOCK_FILE: &str = ".graftling.lock";

/// Holds the folder until dropped; the operating system lets go of it also when the process is killed.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Locks `folder`, which must exist, and notes this process's number in the lock file.
    ///
    /// # Errors
    /// Failed, when another process holds it (with its number where it can be read). Bad input, when the folder cannot be
    /// written to.
    pub fn acquire(folder: &Path) -> Result<Self> {
        let path = folder.join(LOCK_FILE);
        let unwritable = |error: std::io::Error| {
            let problem = format!("cannot write to this folder: {error}");
            Error::bad_input(folder.display(), problem, "give --out a folder that you may write to")
        };
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(unwritable)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0).and_then(|()| file.rewind()).map_err(unwritable)?;
                writeln!(file, "{}", std::process::id()).and_then(|()| file.flush()).map_err(unwritable)?;
                Ok(Self { _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder); // Windows keeps a locked file from being read
                let holder = match holder.trim() {
                    "" => "another process".to_string(),
                    pid => format!("process {pid}"),
                };
                let problem = format!("{holder} is training into this folder");
                Err(Error::failed(folder.display(), problem, "wait until it has ended, or give another --out"))
            }
            Err(TryLockError::Error(error)) => {
                let proposal = "give --out a folder on a file system that has file locks";
                Err(Error::failed(path.display(), format!("cannot lock: {error}"), proposal))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_with_the_number_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::acquire(folder.path()).unwrap();
        let error = FolderLock::acquire(folder.path()).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        if cfg!(unix) {
            assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        }
        drop(first);
        FolderLock::acquire(folder.path()).unwrap();
    }

    #[test]
    fn a_missing_folder_is_bad_input() {
        let error = FolderLock::acquire(Path::new("/nonexistent/graftling")).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
