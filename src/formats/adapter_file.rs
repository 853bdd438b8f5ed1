//! An adapter's folder in the format of its library: PEFT's for LoRA and DoRA, AdapterHub's for bottleneck adapters. Both call the file with
//! the settings `adapter_config.json`; what it says tells them apart.

use std::path::Path;

use super::adapter_folder::CONFIG;
use super::adapter_hub::{self, BottleneckConfig};
use super::open;
use super::peft::{self, AdapterConfig, AdapterTensor};
use crate::Result;
use crate::architecture::Architecture;
use crate::architecture::experts::ExpertNames;

/// What an adapter is, as its file says it.
#[derive(Clone, Debug, PartialEq)]
// There is one an adapter: nothing is gained by a box.
#[allow(clippy::large_enum_variant)]
pub enum AdapterFile {
    Peft(AdapterConfig),
    AdapterHub(BottleneckConfig),
}

/// Names of the files with an adapter's tensors that graftling writes.
pub const WEIGHTS: [&str; 2] = [peft::WEIGHTS, adapter_hub::WEIGHTS];

impl AdapterFile {
    /// Whether a folder has an adapter, as far as the names of its files say.
    pub fn is_in(folder: &Path) -> bool {
        AdapterConfig::is_in(folder) || adapter_hub::is_in(folder)
    }

    /// Reads an adapter; tensors come sorted by name.
    ///
    /// # Errors
    /// As [`peft::load_adapter`] and [`adapter_hub::load`].
    pub fn load(folder: &Path) -> Result<(Self, Vec<AdapterTensor>)> {
        Self::read(folder, &ExpertNames::USUAL)
    }

    fn read(folder: &Path, names: &ExpertNames) -> Result<(Self, Vec<AdapterTensor>)> {
        let path = folder.join(CONFIG);
        // What cannot be read is told by whoever reads it as PEFT's.
        let is_hub = path.exists() && open::read_text(&path, "").is_ok_and(|text| adapter_hub::is_config(&text));
        if is_hub {
            return adapter_hub::load(folder).map(|(config, tensors)| (Self::AdapterHub(config), tensors));
        }
        peft::load_adapter_of(folder, names).map(|(config, tensors)| (Self::Peft(config), tensors))
    }

    /// [`AdapterFile::load`] of an adapter for this model, by whose names its tensors go.
    ///
    /// # Errors
    /// As [`AdapterFile::load`].
    pub fn load_for(folder: &Path, model: &Architecture) -> Result<(Self, Vec<AdapterTensor>)> {
        Self::read(folder, model.family().experts.as_ref().unwrap_or(&ExpertNames::USUAL))
    }

    /// The name of the file with its tensors.
    pub fn weights_file(&self) -> &'static str {
        match self {
            Self::Peft(_) => peft::WEIGHTS,
            Self::AdapterHub(_) => adapter_hub::WEIGHTS,
        }
    }

    /// See [`AdapterConfig::taken_out`]; empty for other adapters.
    pub fn taken_out(&self) -> &[AdapterTensor] {
        match self {
            Self::Peft(config) => &config.taken_out,
            Self::AdapterHub(_) => &[],
        }
    }

    /// Says what the start has taken out of the base, where an adapter can have such a start.
    pub fn set_taken_out(&mut self, taken_out: Vec<AdapterTensor>) {
        if let Self::Peft(config) = self {
            config.taken_out = taken_out;
        }
    }

    /// Writes an adapter that its library loads.
    ///
    /// # Errors
    /// As [`peft::save_adapter`] and [`adapter_hub::save`].
    pub fn save(&self, folder: &Path, tensors: &[AdapterTensor]) -> Result<()> {
        match self {
            Self::Peft(config) => peft::save_adapter(folder, config, tensors),
            Self::AdapterHub(config) => adapter_hub::save(folder, config, tensors),
        }
    }
}
