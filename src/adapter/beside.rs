//! Where an adapter's further files are: beside its own.

use std::path::{Path, PathBuf};

/// Begins the name of the folder of a run's checkpoint, whose further files stand in the run's folder.
pub const CHECKPOINT: &str = "checkpoint-";

/// The file of this name beside the adapter in `folder`; `None` if there is nothing of that name.
pub fn beside(folder: &Path, name: &str) -> Option<PathBuf> {
    let is_checkpoint = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(CHECKPOINT));
    let of_run = folder.parent().filter(|_| is_checkpoint);
    let mut places = [Some(folder), of_run].into_iter().flatten().map(|folder| folder.join(name));
    places.find(|path| path.symlink_metadata().is_ok())
}
