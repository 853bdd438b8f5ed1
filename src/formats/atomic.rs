//! Files that are either the old version or the new one, never half of one.
//!
//! The new content goes to a temporary file in the same folder (a rename across file systems would be a copy), is flushed to
//! the disk, and takes the final name in one step; then the folder itself is flushed, so that the new name survives a power
//! cut. A process that is killed in between leaves the old file untouched and at most one file of a random name beside it
//! (`is_temporary`).
//!
//! The temporary file is made anew under a name that nobody can know, so that no link is followed to another file. What stands at the
//! final name is replaced as a name: a link goes, and what it points to stays as it is. A file that its owner has made read-only is not
//! replaced.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
};

use crate::{Error, Result};

/// Begins the names of what is being written or removed.
const TEMPORARY_PREFIX: &str = ".graftling-tmp-";
/// Random letters and digits after it.
const RANDOM: usize = 12;

/// Makes temporary files and folders, with the permissions that an ordinary new file has.
pub(crate) fn temporary() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX).rand_bytes(RANDOM);
    builder
}

/// Whether [`temporary`] may have made this name.
pub(crate) fn is_temporary(name: &str) -> bool {
    let random = name.strip_prefix(TEMPORARY_PREFIX);
    random.is_some_and(|random| random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// The permissions of an ordinary new file (or folder, with `mode` 0o777), from which the process's umask takes.
#[cfg(unix)]
pub(crate) fn usual_permissions(mode: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}

/// Writes `path` through `fill`, all or nothing. The folder must exist.
///
/// # Errors
/// [`Error::Failed`] naming the file if it is read-only, or cannot be created, filled, flushed or renamed; the old content is then
/// still there.
pub fn write(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    write_with(path, |file| fill(file).map_err(|error| unwritable(path, &error)))
}

/// [`write()`] through what may fail for reasons of its own.
///
/// # Errors
/// As [`write()`], and what `fill` gives.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    if path.file_name().is_none() {
        return Err(Error::bad_input(path.display(), "this is not the name of a file", "Give the path of a file to write."));
    }
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.permissions().readonly()) {
        return Err(Error::failed(path.display(), "is read-only and is not replaced", "Make it writable, or move it away."));
    }
    fill_and_rename(path, fill)
}

/// That a file could not be written, and why.
pub fn unwritable(path: &Path, error: &io::Error) -> Error {
    Error::failed(
        path.display(),
        format!("cannot be written: {error}"),
        "Check that the folder exists, that it may be written to, and that the disk is not full.",
    )
}

/// Writes `bytes` to `path`, all or nothing. See [`write()`].
///
/// # Errors
/// As [`write()`].
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, |file| file.write_all(bytes))
}

fn fill_and_rename(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let full = |error| unwritable(path, &error);
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    #[cfg_attr(not(unix), expect(unused_mut))]
    let mut builder = temporary();
    #[cfg(unix)]
    builder.permissions(usual_permissions(0o666));
    // Removed when it goes out of scope without having got its name.
    let (file, name) = builder.tempfile_in(folder).map_err(full)?.into_parts();
    let mut file = BufWriter::new(file);
    fill(&mut file)?;
    file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all()).map_err(full)?;
    name.persist(path).map_err(|error| full(error.error))?;
    flush_folder(folder).map_err(full)
}

/// Writes a file that is not there yet, all or nothing. One that is there stays, whoever wrote it.
///
/// # Errors
/// [`Error::Failed`] naming the file if it cannot be written.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = temporary().tempfile_in(path.parent().unwrap_or(Path::new("."))).and_then(|mut file| {
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            persisted => persisted.map(drop).map_err(|error| error.error),
        }
    });
    written.map_err(|error| {
        Error::failed(path.display(), format!("cannot be written: {error}"), "Check that the folder may be written to.")
    })
}

/// Forces the names in a folder to disk, so that a rename outlasts a power cut. (Windows has no such call; NTFS journals it.)
pub(crate) fn flush_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_link_is_replaced_and_what_it_points_to_stays() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (user, path) = (folder.path().join("user"), folder.path().join("out.json"));
        fs::write(&user, "the user's").unwrap();
        symlink(&user, &path).unwrap();
        // Where earlier versions made their temporary file.
        symlink(&user, folder.path().join(".out.json.partial")).unwrap();
        write_atomically(&path, b"new").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap(), fs::read_to_string(&user).unwrap()), ("new".into(), "the user's".into()));
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        let plain = folder.path().join("plain");
        fs::write(&plain, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain), "as any new file");
        // The name goes, also of a hard link.
        fs::hard_link(&user, folder.path().join("hard")).unwrap();
        write_atomically(&folder.path().join("hard"), b"new").unwrap();
        assert_eq!(fs::read_to_string(&user).unwrap(), "the user's");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 5, "no temporary file is left");
    }

    #[test]
    fn a_read_only_file_and_a_folder_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept");
        fs::write(&path, "old").unwrap();
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&path, permissions).unwrap();
        assert!(write_atomically(&path, b"new").unwrap_err().to_string().contains("read-only"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        fs::create_dir(folder.path().join("folder")).unwrap();
        assert!(write_atomically(&folder.path().join("folder"), b"new").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_atomically(&path, b"old").unwrap();
        let full = |file: &mut BufWriter<File>| file.write_all(b"half").and(Err(io::Error::other("full")));
        assert!(write(&path, full).unwrap_err().to_string().contains("full"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_there_is_not_replaced_by_a_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_new(&path, b"first").unwrap();
        write_new(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write_new(&folder.path().join("nowhere/file"), b"").is_err());
    }

    #[test]
    fn only_names_of_our_own_making_are_temporary() {
        let made = temporary().tempdir().unwrap();
        assert!(is_temporary(made.path().file_name().unwrap().to_str().unwrap()));
        for other in [".graftling-tmp-checkpoint-5", ".graftling-tmp-", ".graftling.lock", "checkpoint-5", ".graftling-tmp-notes"]
        {
            assert!(!is_temporary(other), "{other}");
        }
    }
}
