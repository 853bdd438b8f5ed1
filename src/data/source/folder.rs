//! A folder of data: `train.jsonl` and, if there is one, `valid.jsonl`, as mlx-lm has them.
//!
//! The names may also end as other data files do, and be `validation` and numbered parts (`train-00000-of-00002.parquet`), as data
//! sets of Hugging Face are stored.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Which of the two sides of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Train,
    HeldOut,
}

const ENDINGS: [&str; 6] = ["jsonl", "json", "ndjson", "csv", "tsv", "parquet"];

impl Side {
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Train => &["train"],
            Self::HeldOut => &["valid", "validation", "val"],
        }
    }
}

/// The files that `paths` stand for: files themselves, and those of this side in folders.
///
/// # Errors
/// A folder that has none, or cannot be read.
pub fn files(paths: &[PathBuf], side: Side) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in paths {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let found = side_of(path, side)?;
        if found.is_empty() {
            let name = side.names()[0];
            let problem = format!("this folder has no {name}.jsonl (or .json, .csv, .parquet, each also as .gz)");
            return Err(Error::bad_input(path.display(), problem, format!("give the data file itself, or name it {name}.jsonl")));
        }
        all.extend(found);
    }
    Ok(all)
}

/// The held-out files that folders among `paths` bring with them.
///
/// # Errors
/// A folder cannot be read.
pub fn brought(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let folders = paths.iter().filter(|path| path.is_dir());
    Ok(folders.map(|path| side_of(path, Side::HeldOut)).collect::<Result<Vec<_>>>()?.concat())
}

/// The files of one side in `folder`, or in `folder/data`, in the order of their names.
fn side_of(folder: &Path, side: Side) -> Result<Vec<PathBuf>> {
    for folder in [folder.to_path_buf(), folder.join("data")] {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|cause| {
                Error::bad_input(folder.display(), format!("cannot read this folder: {cause}"), "check that it may be read")
            })?;
            if side.names().iter().any(|name| is_part(&entry.file_name().to_string_lossy(), name)) && !entry.path().is_dir() {
                found.push(entry.path());
            }
        }
        found.sort();
        let whole = |path: &&PathBuf| !path.to_string_lossy().contains("-of-");
        if found.iter().filter(whole).count() > 1 {
            let names: Vec<String> =
                found.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
            let problem = format!("it is not clear which of these is meant: {}", names.join(", "));
            return Err(Error::bad_input(folder.display(), problem, "give the data files themselves"));
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

/// Whether `file` is `NAME.ENDING` or `NAME-NNNNN-of-NNNNN.ENDING`, with or without `.gz`.
fn is_part(file: &str, name: &str) -> bool {
    let file = file.strip_suffix(".gz").unwrap_or(file);
    let Some((stem, ending)) = file.rsplit_once('.') else { return false };
    let Some(rest) = stem.strip_prefix(name) else { return false };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let part = rest.strip_prefix('-').and_then(|rest| rest.split_once("-of-"));
    ENDINGS.contains(&ending) && (rest.is_empty() || part.is_some_and(|(number, count)| digits(number) && digits(count)))
}
