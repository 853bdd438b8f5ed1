//! The theatre: the run that a studio shows.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::events::{Event, Events};
use crate::files;
use crate::{Error, Result};

/// The run that is shown, and the program that trains.
pub struct Theatre {
    folder: Mutex<Option<PathBuf>>,
}

impl Theatre {
    pub(super) fn new(_program: PathBuf, _events: Events) -> Self {
        Self { folder: Mutex::new(None) }
    }

    /// Shows the run in this folder.
    ///
    /// # Errors
    /// Bad input: there is no such folder.
    pub fn attach(&self, folder: &Path) -> Result<()> {
        if !folder.is_dir() {
            let proposal = "give --run the output folder of a `graftling train`";
            return Err(Error::bad_input(folder.display(), "there is no such folder", proposal));
        }
        *self.folder.lock().unwrap_or_else(PoisonError::into_inner) = Some(folder.to_path_buf());
        Ok(())
    }

    /// The folder of the run that is shown.
    pub fn folder(&self) -> Option<PathBuf> {
        self.folder.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether that run occupies the device now.
    pub fn is_training(&self) -> bool {
        false
    }

    /// What the run has told after this step.
    pub(super) fn missed(&self, _after: u64) -> Vec<Event> {
        Vec::new()
    }

    /// Stops what was started here, and waits until it has saved.
    pub(super) fn end(&self) {}
}

/// The model that the adapter in a folder is for, as its configuration says.
pub fn base_model(folder: &Path) -> Option<String> {
    let text = files::read_to_string(&folder.join("adapter_config.json"), files::DESCRIPTION).ok()?;
    let config: Value = serde_json::from_str(&text).ok()?;
    config.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_string)
}
