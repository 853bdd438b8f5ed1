//! What a run is: a small file in its folder, for programs that look at it from outside. The run itself never reads it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::formats::atomic;
use crate::train::keep::plain;
use crate::train::memory::Memory;

/// The file's name inside the output folder.
pub const ABOUT_FILE: &str = ".graftling.run.json";
/// It has a few kilobytes.
const MOST_BYTES: u64 = 1 << 20;

/// What a run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// As the user wrote it.
    pub model: String,
    pub data: Vec<String>,
    pub device: String,
    /// Optimizer steps in all.
    pub total_steps: u64,
    /// The step after which this process took over; 0 for a run from its beginning.
    pub first_step: u64,
    /// When that was, in seconds since 1970.
    pub started: u64,
    /// Bytes on the device, as planned.
    pub memory: Memory,
    /// Numbers that are trained.
    pub parameters: usize,
    /// What the numbers of the run depend on, by option.
    pub options: BTreeMap<String, String>,
}

impl About {
    /// What the file in the folder of a run says; `None` if there is none, or one that is not to be understood.
    pub fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&plain::read(&folder.join(ABOUT_FILE), MOST_BYTES).ok()?).ok()
    }

    /// Writes it; a run is not ended by a file that nobody needs for it.
    pub fn write(&self, folder: &Path) {
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        if let Err(error) = atomic::write_atomically(&folder.join(ABOUT_FILE), &text) {
            tracing::warn!("the studio will know less of this run: {error}");
        }
    }
}
