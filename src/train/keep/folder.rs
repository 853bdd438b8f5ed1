//! What is in an output folder, and what of it a run may touch.
//!
//! The folder is the user's. Removed is only what graftling has provably written and what a newer good checkpoint makes superfluous: a
//! folder that holds nothing but a checkpoint's files, each with the digest that was noted when it was written. Whatever else stands at
//! a name that a run needs is renamed ([`set_aside`]) if it is, or was, a checkpoint, and refused if it is not. Links are never followed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::checkpoint::{FORMAT_VERSION, RunState};
use super::plain;
use super::sums::{self, SUMS};
use crate::formats::adapter_file::WEIGHTS;
use crate::formats::atomic;
use crate::train::options::MOST_STEPS;

/// Begins the name of a checkpoint's folder; its step follows.
pub const PREFIX: &str = crate::adapter::beside::CHECKPOINT;
/// Where a run stands, see [`RunState`].
pub const STATE: &str = "state.json";
/// AdamW's moments.
pub const OPTIMIZER: &str = "optimizer.safetensors";
/// The adapter: its settings, and its tensors as PEFT or as AdapterHub names their file.
pub const ADAPTER_FILES: [&str; 3] = ["adapter_config.json", WEIGHTS[0], WEIGHTS[1]];
/// What a checkpoint with an adapter of PEFT holds beside [`SUMS`].
pub const FILES: [&str; 4] = [ADAPTER_FILES[0], ADAPTER_FILES[1], OPTIMIZER, STATE];

/// What the checkpoint in this folder holds beside [`SUMS`]: one file with the adapter's tensors at least, as PEFT names it if there is none.
pub fn files(folder: &Path) -> Vec<&'static str> {
    let there = |name: &&str| fs::symlink_metadata(folder.join(name)).is_ok();
    let mut weights: Vec<&'static str> = WEIGHTS.into_iter().filter(there).collect();
    if weights.is_empty() {
        weights.push(WEIGHTS[0]);
    }
    [ADAPTER_FILES[0], OPTIMIZER, STATE].into_iter().chain(weights).collect()
}

/// Begins the name of a checkpoint that `--overwrite` has taken out of the way.
const REPLACED: &str = "replaced-";
/// Begins the name of a damaged checkpoint whose own name was needed.
const DAMAGED: &str = "damaged-";
/// A state takes some kilobytes.
const MOST_STATE_BYTES: u64 = 16 << 20;

/// Something in an output folder that is called `checkpoint-STEP`.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub step: u64,
    pub path: PathBuf,
    pub kind: Kind,
}

/// What it is, as far as can be said without reading its tensors.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A checkpoint; its digests are still to be verified.
    Checkpoint(Box<RunState>),
    /// A checkpoint in the format of another version of graftling.
    OtherVersion(u64),
    /// Nothing but files of a checkpoint, with this wrong.
    Damaged(String),
    /// Not made by graftling: a link, a file, or a folder with other files, such as a checkpoint of Hugging Face's Trainer.
    Foreign,
}

impl Found {
    /// Its name and what it is, for messages.
    pub fn described(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        match &self.kind {
            Kind::Checkpoint(state) => format!("{name}, step {}", state.step),
            Kind::OtherVersion(version) => {
                let age = if *version > u64::from(FORMAT_VERSION) { "a newer" } else { "an older" };
                format!("{name}, format version {version} of {age} graftling (this one has {FORMAT_VERSION})")
            }
            Kind::Damaged(problem) => format!("{name}, damaged: {problem}"),
            Kind::Foreign => format!("{name}, not made by graftling"),
        }
    }
}

/// Everything in `out` that is called `checkpoint-STEP`, the highest step first.
///
/// # Errors
/// `out` cannot be listed.
pub fn checkpoints(out: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(out)? {
        let entry = entry?;
        let step = entry.file_name().to_str().and_then(|name| {
            let step = name.strip_prefix(PREFIX)?.parse::<u64>().ok()?;
            (name == format!("{PREFIX}{step}")).then_some(step)
        });
        if let Some(step) = step {
            found.push(Found { step, kind: kind(&entry.path(), step), path: entry.path() });
        }
    }
    found.sort_unstable_by_key(|found| std::cmp::Reverse(found.step));
    Ok(found)
}

fn kind(folder: &Path, step: u64) -> Kind {
    let Ok(only_ours) = holds_only_ours(folder) else { return Kind::Foreign };
    let damaged = |problem: String| if only_ours { Kind::Damaged(problem) } else { Kind::Foreign };
    let text = match plain::read(&folder.join(STATE), MOST_STATE_BYTES) {
        Ok(text) => text,
        Err(error) => return damaged(format!("{STATE} cannot be read: {error}")),
    };
    let value: Value = match serde_json::from_slice(&text) {
        Ok(value) => value,
        Err(error) => return damaged(format!("{STATE} is no JSON: {error}")),
    };
    match value["format_version"].as_u64() {
        Some(version) if version == u64::from(FORMAT_VERSION) => {}
        Some(version) => return Kind::OtherVersion(version),
        None => return damaged(format!("{STATE} has no format_version")),
    }
    // From the text: numbers that went through a `Value` need not be the same.
    let state: RunState = match serde_json::from_slice(&text) {
        Ok(state) => state,
        Err(error) => return damaged(format!("{STATE}: {error}")),
    };
    if state.step != step {
        return damaged(format!("{STATE} is of step {}", state.step));
    }
    // Every step takes a batch, and every epoch has one.
    if state.step > MOST_STEPS || state.position.epoch > state.step {
        return damaged(format!("{STATE} tells of more steps or epochs than a run can have"));
    }
    match files(folder).iter().chain([&SUMS]).find(|name| !folder.join(name).is_file()) {
        Some(missing) => damaged(format!("{missing} is missing")),
        None => Kind::Checkpoint(Box::new(state)),
    }
}

/// Whether a folder holds nothing but files of a checkpoint.
///
/// # Errors
/// It is no folder (a link to one is none), or cannot be listed.
fn holds_only_ours(folder: &Path) -> io::Result<bool> {
    if !fs::symlink_metadata(folder)?.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory));
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_type()?.is_file() || !is_ours(&entry.file_name().to_string_lossy()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_ours(name: &str) -> bool {
    ADAPTER_FILES.contains(&name) || [OPTIMIZER, STATE, SUMS].contains(&name) || atomic::is_temporary(name)
}

/// Removes superfluous checkpoints after that of step `saved` has been written: those before it beyond the newest `keep`, and those that
/// `--overwrite` has set aside. What is not provably a checkpoint of graftling, or is read-only, stays.
///
/// # Errors
/// `out` cannot be listed or written.
pub fn remove_old(out: &Path, saved: u64, keep: usize) -> io::Result<()> {
    let ours = |found: &Found| matches!(found.kind, Kind::Checkpoint(_)) && found.step < saved;
    let old = checkpoints(out)?.into_iter().filter(ours).skip(keep.max(1) - 1).map(|found| found.path);
    let replaced = fs::read_dir(out)?.filter_map(|entry| entry.ok()).map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.strip_prefix(REPLACED).is_some_and(|name| name.starts_with(PREFIX))
    });
    for folder in old.chain(replaced.collect::<Vec<_>>()) {
        match may_be_removed(&folder) {
            Ok(()) => remove(out, &folder)?,
            Err(why) => tracing::info!("{} is kept: {why}", folder.display()),
        }
    }
    Ok(())
}

fn may_be_removed(folder: &Path) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    if !holds_only_ours(folder).map_err(text)? {
        return Err("it holds other files as well".to_string());
    }
    for path in files(folder).iter().map(|name| folder.join(name)).chain([folder.to_owned()]) {
        if fs::symlink_metadata(&path).map_err(text)?.permissions().readonly() {
            return Err(format!("{} is read-only", path.display()));
        }
    }
    sums::verify(folder, &files(folder))
}

/// Removes a checkpoint: first its name, then its files.
fn remove(out: &Path, folder: &Path) -> io::Result<()> {
    let trash = atomic::temporary().tempdir_in(out)?.keep();
    fs::rename(folder, trash.join(folder.file_name().unwrap_or_default()))?;
    empty(&trash, true);
    Ok(())
}

/// Removes a checkpoint's files from `folder`, those of folders in it where it is a temporary one, and then the folder if nothing is
/// left in it.
fn empty(folder: &Path, temporary: bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.file_type() {
            Ok(kind) if kind.is_file() && is_ours(&name) => {
                let _ = fs::remove_file(entry.path()); // then the folder stays too
            }
            Ok(kind) if kind.is_dir() && temporary && name.contains(PREFIX) => empty(&entry.path(), false),
            _ => {}
        }
    }
    let _ = fs::remove_dir(folder); // not if something else is in it
}

/// Removes what a killed process left half-written or half-removed in `out`.
///
/// # Errors
/// `out` cannot be listed.
pub fn remove_leftovers(out: &Path) -> io::Result<()> {
    for entry in fs::read_dir(out)? {
        let entry = entry?;
        if !atomic::is_temporary(&entry.file_name().to_string_lossy()) {
            continue;
        }
        match entry.file_type()? {
            kind if kind.is_file() => fs::remove_file(entry.path())?,
            kind if kind.is_dir() => empty(&entry.path(), true),
            _ => {}
        }
    }
    Ok(())
}

/// Frees the name of something called `checkpoint-STEP` by giving it another; nothing is lost.
///
/// # Errors
/// It is not graftling's, or cannot be renamed.
pub fn set_aside(found: &Found) -> io::Result<PathBuf> {
    let prefix = match &found.kind {
        Kind::Foreign => {
            let problem = format!("{} was not made by graftling and is not replaced", found.path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
        }
        Kind::Damaged(_) => DAMAGED,
        Kind::Checkpoint(_) if sums::verify(&found.path, &files(&found.path)).is_err() => DAMAGED,
        Kind::Checkpoint(_) | Kind::OtherVersion(_) => REPLACED,
    };
    rename_to_free(&found.path, |number| {
        let more = if number == 1 { String::new() } else { format!("-{number}") };
        format!("{prefix}{PREFIX}{}{more}", found.step)
    })
}

/// Renames `path`, within its folder, to the first name that is free of those for 1, 2, 3 ...
///
/// # Errors
/// It cannot be renamed.
pub fn rename_to_free(path: &Path, name: impl Fn(u64) -> String) -> io::Result<PathBuf> {
    let mut names = (1..).map(|number| path.with_file_name(name(number)));
    let free = names.find(|free| fs::symlink_metadata(free).is_err()).unwrap_or_default();
    fs::rename(path, &free)?;
    Ok(free)
}
