//! One process a folder: the lock that keeps two runs from writing into the same `--out`.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use super::plain;
use crate::{Error, Result};

/// The lock file's name inside the folder. It stays there when the run ends: removing it would let a process that has just
/// opened it hold a lock that nobody else can see.
pub const LOCK_FILE: &str = ".graftling.lock";
/// A process's number takes no more, with its line end.
const MOST_BYTES: u64 = 21;

/// Holds the folder until dropped; the operating system lets go of it also when the process is killed.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Locks `folder`, which must exist, and notes this process's number in the lock file. Whatever else may stand at that name is left
    /// as it is: a link is not followed, and only a file that is empty or holds one number is written to.
    ///
    /// # Errors
    /// Failed, when another process holds it (with its number where it can be read). Bad input, when the folder cannot be
    /// written to, or something that is no lock file has the lock file's name.
    pub fn acquire(folder: &Path) -> Result<Self> {
        let path = folder.join(LOCK_FILE);
        let unwritable = |error: std::io::Error| {
            let problem = format!("cannot write to this folder: {LOCK_FILE}: {error}");
            Error::bad_input(folder.display(), problem, "give --out a folder that you may write to")
        };
        let mut options = OpenOptions::new();
        let mut file =
            plain::open_with(&path, options.read(true).write(true).create(true).truncate(false)).map_err(unwritable)?;
        let not_ours = || {
            let problem = "has the name of graftling's lock file, but is something else";
            Err(Error::bad_input(path.display(), problem, "move it away, or give another --out"))
        };
        match file.try_lock() {
            Ok(()) => {
                // Only now, since Windows keeps a locked file from being read.
                let mut content = Vec::new();
                (&mut file).take(MOST_BYTES + 1).read_to_end(&mut content).map_err(unwritable)?;
                let number = content.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_whitespace());
                if !number || content.len() as u64 > MOST_BYTES || plain::names(&file).map_err(unwritable)? != 1 {
                    return not_ours();
                }
                // Written over, not cut: as wide as the longest number.
                let line = format!("{:<width$}\n", std::process::id(), width = MOST_BYTES as usize - 1);
                file.rewind().and_then(|()| file.write_all(line.as_bytes())).and_then(|()| file.flush()).map_err(unwritable)?;
                Ok(Self { _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = (&mut file).take(MOST_BYTES).read_to_string(&mut holder); // Windows keeps a locked file from being read
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

/// Whether a process holds `folder` now: the process's number, where that can be read. Whoever looks holds nothing, but for a moment in
/// which no other can begin.
pub fn holder(folder: &Path) -> Option<Option<u32>> {
    let mut file = plain::open(&folder.join(LOCK_FILE)).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {
            let mut number = String::new();
            let _ = (&mut file).take(MOST_BYTES).read_to_string(&mut number); // Windows keeps a locked file from being read
            Some(number.trim().parse().ok())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_with_the_number_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        // As an earlier version left it.
        std::fs::write(folder.path().join(LOCK_FILE), "4194304\n").unwrap();
        let first = FolderLock::acquire(folder.path()).unwrap();
        let error = FolderLock::acquire(folder.path()).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        if cfg!(unix) {
            assert!(error.to_string().contains(&format!("process {} is", std::process::id())), "{error}");
        }
        assert_eq!(holder(folder.path()), Some(cfg!(unix).then(std::process::id)));
        drop(first);
        assert_eq!(holder(folder.path()), None);
        FolderLock::acquire(folder.path()).unwrap();
    }

    #[test]
    fn a_missing_folder_is_bad_input() {
        let error = FolderLock::acquire(Path::new("/nonexistent/graftling")).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_lock_file_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (user, path) = (folder.path().join("user"), folder.path().join(LOCK_FILE));
        let refused = |content: &str| {
            assert_eq!(FolderLock::acquire(folder.path()).unwrap_err().exit_code(), 2);
            assert_eq!(std::fs::read_to_string(&user).unwrap(), content);
            std::fs::remove_file(&path).unwrap();
        };
        std::fs::write(&user, "the user's").unwrap();
        std::os::unix::fs::symlink(&user, &path).unwrap();
        refused("the user's");
        std::fs::hard_link(&user, &path).unwrap();
        refused("the user's");
        std::fs::write(&user, "").unwrap();
        std::fs::hard_link(&user, &path).unwrap();
        refused("");
        // Nobody writes to this pipe, so an ordinary open would wait for ever.
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        refused("");
        std::fs::create_dir(&path).unwrap();
        assert_eq!(FolderLock::acquire(folder.path()).unwrap_err().exit_code(), 2);
    }
}
