//! What the folders of all libraries' adapters share: a file of settings whose keys either count or change no number, a file of tensors beside
//! it, and how both are read and written.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value};

use super::folder_weights::FolderWeights;
use super::{atomic, open};
use crate::storage::{TensorInfo, TensorSource};
use crate::{Error, Result};

/// The file that says what an adapter's tensors mean.
pub const CONFIG: &str = "adapter_config.json";

/// One matrix of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterTensor {
    /// `layers.3.self_attn.q_proj.lora_a`, `....lora_b`, ...
    pub name: String,
    /// A: `[r, in_features]`; B: `[out_features, r]`; a vector `[out_features, 1]`.
    pub shape: [usize; 2],
    /// Row-major.
    pub values: Vec<f32>,
}

/// What the file with the tensors is called.
pub(super) struct WeightsFile {
    /// The one that is written too.
    pub safetensors: &'static str,
    /// PyTorch's, which is read alone.
    pub pytorch: &'static str,
}

impl WeightsFile {
    /// Whether a folder has an adapter, as far as the names of its files say.
    pub fn is_in(&self, folder: &Path) -> bool {
        let is_there = |name: &str| folder.join(name).is_file();
        is_there(CONFIG) && (is_there(self.safetensors) || is_there(self.pytorch))
    }

    /// The file of a folder; of two, that in safetensors.
    ///
    /// # Errors
    /// Bad input: it has neither.
    pub fn find(&self, folder: &Path) -> Result<PathBuf> {
        let found = [self.safetensors, self.pytorch].map(|name| folder.join(name)).into_iter().find(|path| path.exists());
        found.ok_or_else(|| {
            let problem = format!("has no {}, nor {}", self.safetensors, self.pytorch);
            Error::bad_input(folder.display(), problem, "Copy the whole folder of the adapter.")
        })
    }

    /// Writes a folder with these tensors, by the keys and shapes that a file has, and these settings. It is made if need be; each file is
    /// written all or nothing, the settings last, so that a folder with settings is complete.
    ///
    /// # Errors
    /// Failed: the folder or a file cannot be written. Bad input: a tensor is of another length than its shape.
    pub fn write(&self, folder: &Path, tensors: &[InFile], settings: &Value) -> Result<()> {
        fs::create_dir_all(folder).map_err(|error| {
            let proposal = "Choose an output folder that you may write to.";
            Error::failed(folder.display(), format!("cannot be made: {error}"), proposal)
        })?;
        let path = folder.join(self.safetensors);
        let mut views = Vec::with_capacity(tensors.len());
        for InFile { key, shape, tensor } in tensors {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(&tensor.values));
            views.push((key, view.map_err(|_| mistake(tensor, "has another length than its shape"))?));
        }
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(|error| {
            let proposal = "Report this as a defect of graftling.";
            Error::failed(path.display(), format!("cannot be put together: {error}"), proposal)
        })?;
        atomic::write_atomically(&path, &bytes)?;
        atomic::write_atomically(&folder.join(CONFIG), format!("{settings:#}\n").as_bytes())
    }
}

/// A tensor as a file has it.
pub(super) struct InFile<'t> {
    key: String,
    shape: Vec<usize>,
    tensor: &'t AdapterTensor,
}

impl<'t> InFile<'t> {
    /// By its key, a vector with its one dimension.
    ///
    /// # Errors
    /// Bad input: there is no key for its name.
    pub fn of(tensor: &'t AdapterTensor, key: Option<String>, is_vector: bool) -> Result<Self> {
        let key = key.ok_or_else(|| mistake(tensor, "has a name that no file has"))?;
        let shape = if is_vector { vec![tensor.shape[0]] } else { tensor.shape.to_vec() };
        Ok(Self { key, shape, tensor })
    }
}

fn mistake(tensor: &AdapterTensor, problem: &str) -> Error {
    Error::bad_input(format!("adapter tensor {}", tensor.name), problem, "This is a mistake in the calling program.")
}

/// A file of tensors that is being read.
pub(super) struct Tensors<'p> {
    path: &'p Path,
    file: FolderWeights,
}

impl<'p> Tensors<'p> {
    /// Opens the file, all of whose tensors are of floating-point numbers.
    ///
    /// # Errors
    /// Bad input: it cannot be read, or has tensors of another kind.
    pub fn open(path: &'p Path) -> Result<Self> {
        let file = Self { path, file: FolderWeights::open(&[path.to_owned()])? };
        match file.file.unreadable().first() {
            Some((key, kind)) => Err(file.bad(key, format!("is {kind}"), "Save the adapter in f32, f16 or bf16.")),
            None => Ok(file),
        }
    }

    /// What the file says of each, sorted by key.
    pub fn infos(&self) -> &[TensorInfo] {
        self.file.tensors()
    }

    /// What is wrong with the tensor of this key.
    pub fn bad(&self, key: &str, problem: impl std::fmt::Display, proposal: &str) -> Error {
        Error::bad_input(format!("{}: tensor {key}", self.path.display()), problem, proposal)
    }

    /// The values of a tensor.
    ///
    /// # Errors
    /// Bad input: it cannot be read, or a value is not finite.
    pub fn values(&self, key: &str) -> Result<Vec<f32>> {
        let values = self.file.read_f32(key)?;
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(values),
            false => {
                let proposal = "The training that made it has diverged: use an earlier checkpoint.";
                Err(self.bad(key, "has values that are not finite", proposal))
            }
        }
    }
}

/// The layer, and what is within it, of the name of something in a layer: `layers.3.self_attn.q_proj`.
pub(super) fn within_layer(inside: &str) -> Option<(usize, &str)> {
    let (layer, within) = inside.strip_prefix("layers.")?.split_once('.')?;
    Some((number(layer)?, within))
}

/// A number as names have it: in no other spelling, so that no two names are one.
pub(super) fn number(text: &str) -> Option<usize> {
    text.parse::<usize>().ok().filter(|number| number.to_string() == text)
}

/// What a key of the settings means for the numbers of an adapter that is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Taken into account.
    Read,
    /// Changes no number of an adapter whose tensors are there.
    Harmless,
    /// Only while it is off: null, false, an empty list or an empty object; 0 too where a library writes it so.
    Off,
}

/// The object in [`CONFIG`].
///
/// # Errors
/// Bad input: the file cannot be read, or is no JSON object.
pub(super) fn read_settings(path: &Path) -> Result<Map<String, Value>> {
    let proposal = "Copy the adapter's folder again.";
    let bad = |problem: String| Error::bad_input(path.display(), problem, proposal);
    match serde_json::from_str(&open::read_text(path, proposal)?).map_err(|error| bad(format!("is not valid JSON: {error}")))? {
        Value::Object(map) => Ok(map),
        _ => Err(bad("is not a JSON object".to_owned())),
    }
}

/// Settings, read with errors that name file and key.
pub(super) struct Settings {
    /// The file.
    pub place: String,
    pub map: Map<String, Value>,
    /// What to do about a setting that is not supported.
    pub proposal: &'static str,
}

impl Settings {
    /// What is wrong with this key.
    pub fn bad(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::bad_input(format!("{}: key `{key}`", self.place), problem, self.proposal)
    }

    /// The value, where null is the same as absent.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// A finite number; `default` where it is absent.
    ///
    /// # Errors
    /// Bad input: it is none.
    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => {
                let finite = value.as_f64().filter(|number| number.is_finite());
                finite.ok_or_else(|| self.bad(key, format!("is {value}, not a number")))
            }
        }
    }

    /// The share that dropout drops; 0 where it is absent.
    ///
    /// # Errors
    /// Bad input: it is no number, or none from 0 to less than 1.
    pub fn dropout(&self, key: &str) -> Result<f64> {
        let share = self.number(key, 0.0)?;
        match (0.0..1.0).contains(&share) {
            true => Ok(share),
            false => Err(self.bad(key, format!("is {share}, but must be at least 0 and less than 1"))),
        }
    }

    /// A switch; `default` where it is absent.
    ///
    /// # Errors
    /// Bad input: it is none.
    pub fn switch(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(on)) => Ok(*on),
            Some(other) => Err(self.bad(key, format!("is {other}, neither true nor false"))),
        }
    }

    /// Lets through what graftling computes and what changes no number, by `known`; all else is refused by its name, so that an option that
    /// the library gains later cannot be passed over in silence. `zero_is_off`: whether 0 turns an option off.
    ///
    /// # Errors
    /// Bad input, naming the first key that may change the numbers.
    pub fn refuse_what_changes_the_numbers(&self, known: &[(&str, Rule)], zero_is_off: bool) -> Result<()> {
        let off = |value: &Value| match value {
            Value::Bool(on) => !on,
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            Value::Number(number) => zero_is_off && number.as_f64() == Some(0.0),
            _ => false,
        };
        for (key, value) in self.map.iter().filter(|(_, value)| !value.is_null()) {
            match known.iter().find(|(known, _)| known == key).map(|(_, rule)| rule) {
                Some(Rule::Read | Rule::Harmless) => {}
                _ if off(value) => {}
                Some(Rule::Off) => return Err(self.bad(key, format!("is {value}, which graftling does not support"))),
                None => {
                    let problem = format!("is {value}; graftling does not know this key and cannot tell what it changes");
                    return Err(self.bad(key, problem));
                }
            }
        }
        Ok(())
    }
}
