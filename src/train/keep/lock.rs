//! One process a folder: the lock that keeps two runs from writing into the same `--out`.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

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
    folder: PathBuf,
    identity: Option<Identity>,
}

/// Device and number of a folder on it.
type Identity = (u64, u64);

/// Which folder has this name now; `None` where the system does not say (one that does not keeps a folder in use from being moved).
fn identity(folder: &Path) -> io::Result<Option<Identity>> {
    let found = std::fs::metadata(folder)?;
    #[cfg(unix)]
    return Ok(Some((std::os::unix::fs::MetadataExt::dev(&found), std::os::unix::fs::MetadataExt::ino(&found))));
    #[cfg(not(unix))]
    return Ok(None);
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
                Ok(Self { _file: file, folder: folder.to_owned(), identity: identity(folder).map_err(unwritable)? })
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

    /// Whether the folder's name still leads to the folder that was locked, so that what is written there meets this run's files only.
    ///
    /// # Errors
    /// Failed, when it was moved away or removed, or another has its name.
    pub fn check_in_place(&self) -> Result<()> {
        let problem = match identity(&self.folder) {
            Ok(found) if found == self.identity => return Ok(()),
            Ok(_) => "is another folder than the one in which this run began, which was moved away".to_owned(),
            Err(error) => format!("was moved away or removed while the run was writing into it: {error}"),
        };
        let proposal = "nothing was written there; move the run's own folder back and go on with --resume";
        Err(Error::failed(self.folder.display(), problem, proposal))
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

    #[cfg(unix)]
    #[test]
    fn a_folder_that_was_moved_or_replaced_is_seen() {
        let place = tempfile::tempdir().unwrap();
        let (folder, away) = (place.path().join("out"), place.path().join("away"));
        std::fs::create_dir(&folder).unwrap();
        let lock = FolderLock::acquire(&folder).unwrap();
        std::fs::remove_file(folder.join(LOCK_FILE)).unwrap();
        lock.check_in_place().unwrap();
        std::fs::rename(&folder, &away).unwrap();
        assert!(lock.check_in_place().unwrap_err().to_string().contains("moved away or removed"));
        std::fs::create_dir(&folder).unwrap();
        assert!(lock.check_in_place().unwrap_err().to_string().contains("another folder"));
        std::fs::remove_dir(&folder).unwrap();
        std::os::unix::fs::symlink(&away, &folder).unwrap();
        lock.check_in_place().unwrap();
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
