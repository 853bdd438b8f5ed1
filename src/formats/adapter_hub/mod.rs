//! Bottleneck adapters as AdapterHub's library `adapters` keeps them: a folder with `adapter_config.json` and `adapter.safetensors`, or
//! `pytorch_adapter.bin`.
//!
//! The config has the settings in an object `config` (`config_file`), and beside them what the adapter is called and for which model it is. A
//! tensor is called `model.layers.3.output_adapters.adapters.NAME.adapter_up.weight` in the file and `layers.3.mlp.down_proj.adapter_up` in
//! this program (`names`): it hangs on the layer that ends attention or the MLP. In a layer with hidden size h, D is `[h / factor, h]` and U
//! `[h, h / factor]`, rounded down and at least 1, both with biases.

mod config_file;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::adapter_folder::{AdapterTensor, CONFIG, InFile, Tensors, WeightsFile};
use crate::ops::activate::NonLinearity;
use crate::{Error, Result};
use config_file::ConfigFile;
pub use names::Place;

/// What `save_adapter(..., use_safetensors=True)` writes.
pub const WEIGHTS: &str = "adapter.safetensors";
/// PyTorch's is what it writes otherwise, and looks for unless it is told otherwise; where there are both, they are the same.
const FILE: WeightsFile = WeightsFile { safetensors: WEIGHTS, pytorch: "pytorch_adapter.bin" };
/// What an adapter of ours is called in its file, and so in the library.
const NAME: &str = "graftling";
/// The version of the library whose format this is.
const VERSION: &str = "adapters.1.3.0";

/// What goes into a bottleneck; see [`crate::adapter::bottleneck`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// What attention or the MLP gives.
    Output,
    /// That with the residual added.
    Sum,
    /// The residual: the adapter is parallel.
    Residual,
}

/// How the two matrices start. Biases are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitWeights {
    /// Both normal, deviation 0.02.
    Bert,
    /// D uniform in +-1/sqrt(hidden), U zero: training starts at the base model.
    MamAdapter,
    /// Both normal, deviation 0.01, cut at twice that.
    Houlsby,
}

impl InitWeights {
    const NAMES: [(&'static str, Self); 3] =
        [("bert", Self::Bert), ("mam_adapter", Self::MamAdapter), ("houlsby", Self::Houlsby)];

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, start)| *start == self).map_or("bert", |(name, _)| name)
    }
}

/// A [`NonLinearity`] by one of its names in transformers, which files keep: several names mean the same function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Named {
    name: String,
    pub non_linearity: NonLinearity,
}

/// transformers' names; two that differ in rounding alone mean the same here.
const NON_LINEARITIES: [(&str, NonLinearity); 17] = [
    ("relu", NonLinearity::Relu),
    ("leakyrelu", NonLinearity::LeakyRelu),
    ("leaky_relu", NonLinearity::LeakyRelu),
    ("relu2", NonLinearity::Relu2),
    ("relu6", NonLinearity::Relu6),
    ("swish", NonLinearity::Silu),
    ("silu", NonLinearity::Silu),
    ("quick_gelu", NonLinearity::QuickGelu),
    ("gelu", NonLinearity::Gelu),
    ("gelu_python", NonLinearity::Gelu),
    ("gelu_new", NonLinearity::GeluTanh),
    ("gelu_fast", NonLinearity::GeluTanh),
    ("gelu_accurate", NonLinearity::GeluTanh),
    ("gelu_pytorch_tanh", NonLinearity::GeluTanh),
    ("gelu_python_tanh", NonLinearity::GeluTanh),
    ("tanh", NonLinearity::Tanh),
    ("sigmoid", NonLinearity::Sigmoid),
];

impl FromStr for Named {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let name = name.to_lowercase();
        match NON_LINEARITIES.iter().find(|(known, _)| *known == name) {
            Some(&(_, non_linearity)) => Ok(Self { name, non_linearity }),
            None => {
                let known: Vec<&str> = NON_LINEARITIES.iter().map(|(known, _)| *known).collect();
                Err(format!("`{name}` is none of {}", known.join(", ")))
            }
        }
    }
}

impl TryFrom<String> for Named {
    type Error = String;

    fn try_from(name: String) -> std::result::Result<Self, String> {
        name.parse()
    }
}

impl From<Named> for String {
    fn from(named: Named) -> Self {
        named.name
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What the hidden size is divided by for the width of a bottleneck.
#[derive(Clone, Debug, PartialEq)]
pub struct ReductionFactor {
    /// Where a layer has no other; a file may leave it out if every layer has its own.
    pub default: Option<f64>,
    pub layers: BTreeMap<usize, f64>,
}

impl ReductionFactor {
    /// The same in every layer.
    pub fn uniform(factor: f64) -> Self {
        Self { default: Some(factor), layers: BTreeMap::new() }
    }

    /// The width in a layer; `None` if nothing is said about it.
    pub fn size(&self, layer: usize, hidden_size: usize) -> Option<usize> {
        let factor = self.layers.get(&layer).copied().or(self.default)?;
        Some(((hidden_size as f64 / factor).floor() as usize).max(1))
    }
}

/// The part of AdapterHub's `BnConfig` that graftling uses, and which model it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct BottleneckConfig {
    /// `mh_adapter`: is there one after attention?
    pub after_attention: bool,
    /// `output_adapter`: is there one after, or beside, the MLP?
    pub after_mlp: bool,
    pub input: Input,
    pub reduction_factor: ReductionFactor,
    pub non_linearity: Named,
    /// By what the adapter's output is multiplied.
    pub scaling: f64,
    /// Share of that output that training drops, 0 to 1 (exclusive).
    pub dropout: f64,
    pub init_weights: InitWeights,
    /// Layers without any.
    pub leave_out: BTreeSet<usize>,
    /// The base model's name or path.
    pub base_model: Option<String>,
    /// Its transformers class and type; of a file, as it says.
    pub model_class: Option<String>,
    pub model_type: Option<String>,
    pub hidden_size: Option<usize>,
    /// What stands before `layers.` in the modules' names: [`Architecture::text_path`](crate::architecture::Architecture::text_path).
    pub text_path: &'static str,
}

impl BottleneckConfig {
    /// `double_seq_bn`: after attention and after the MLP (Houlsby).
    pub fn houlsby() -> Self {
        Self {
            after_attention: true,
            after_mlp: true,
            input: Input::Output,
            reduction_factor: ReductionFactor::uniform(16.0),
            non_linearity: Named { name: "swish".to_owned(), non_linearity: NonLinearity::Silu },
            scaling: 1.0,
            dropout: 0.0,
            init_weights: InitWeights::Bert,
            leave_out: BTreeSet::new(),
            base_model: None,
            model_class: None,
            model_type: None,
            hidden_size: None,
            text_path: "",
        }
    }

    /// `seq_bn`: after the MLP and its residual (Pfeiffer).
    pub fn pfeiffer() -> Self {
        let non_linearity = Named { name: "relu".to_owned(), non_linearity: NonLinearity::Relu };
        Self { after_attention: false, input: Input::Sum, non_linearity, ..Self::houlsby() }
    }

    /// `par_bn`: beside the MLP (He).
    pub fn parallel() -> Self {
        Self {
            input: Input::Residual,
            reduction_factor: ReductionFactor::uniform(2.0),
            scaling: 4.0,
            init_weights: InitWeights::MamAdapter,
            ..Self::pfeiffer()
        }
    }

    /// Is there one at this place of this layer?
    pub fn adapts(&self, layer: usize, place: Place) -> bool {
        let is_there = if place == Place::Attention { self.after_attention } else { self.after_mlp };
        is_there && !self.leave_out.contains(&layer)
    }
}

/// Whether this is the text of AdapterHub's `adapter_config.json`, and not of PEFT's.
pub fn is_config(text: &str) -> bool {
    let is = |value: &serde_json::Value| value.get("peft_type").is_none() && value.get("config").is_some();
    serde_json::from_str(text).is_ok_and(|value| is(&value))
}

/// Whether a folder has an adapter of AdapterHub, as far as the names of its files say.
pub fn is_in(folder: &Path) -> bool {
    FILE.is_in(folder)
}

/// Reads an adapter. Tensors come sorted by name, each bottleneck with its four.
///
/// # Errors
/// [`Error::BadInput`] naming the file, key or tensor: another method than a bottleneck, an option that graftling does not have, a tensor that
/// is missing, of a wrong shape, or not finite.
pub fn load(folder: &Path) -> Result<(BottleneckConfig, Vec<AdapterTensor>)> {
    let file = ConfigFile::read(&folder.join(CONFIG))?;
    let name = file.name()?;
    let config = file.into_config()?;
    let tensors = read_tensors(&FILE.find(folder)?, &config, &name)?;
    Ok((config, tensors))
}

/// The tensors of the file, sorted by name, each as large as the config says.
fn read_tensors(path: &Path, config: &BottleneckConfig, adapter: &str) -> Result<Vec<AdapterTensor>> {
    let file = Tensors::open(path)?;
    let bad = |key: &str, problem: String, proposal: &str| Err(file.bad(key, problem, proposal));
    let mut tensors = BTreeMap::new();
    // A matrix says how wide the model is, if the config does not.
    let told = || file.infos().iter().find_map(|info| names::of_key(&info.name, adapter)?.hidden_of(&info.shape));
    let hidden = config.hidden_size.or_else(told).unwrap_or_default();
    for info in file.infos() {
        let key = info.name.as_str();
        let Some(named) = names::of_key(key, adapter) else {
            let problem = format!("is no part of a bottleneck of the adapter `{adapter}` after attention or an MLP");
            return bad(key, problem, "graftling reads such bottlenecks alone: train the adapter without other parts.");
        };
        if !config.adapts(named.layer, named.place) {
            return bad(key, format!("is there, but {CONFIG} has no bottleneck at that place"), WRONG_ADAPTER);
        }
        let Some(size) = config.reduction_factor.size(named.layer, hidden) else {
            let problem = format!("is there, but reduction_factor in {CONFIG} has neither layer {} nor a default", named.layer);
            return bad(key, problem, WRONG_ADAPTER);
        };
        let expected = named.shape(hidden, size);
        if info.shape != expected {
            let problem = format!("has shape {:?}, and by {CONFIG} it must be {expected:?}", info.shape);
            return bad(key, problem, WRONG_ADAPTER);
        }
        let values = file.values(key)?;
        let shape = [expected[0], expected.get(1).copied().unwrap_or(1)];
        tensors.insert(named.name.clone(), AdapterTensor { name: named.name, shape, values });
    }
    if tensors.is_empty() {
        return Err(Error::bad_input(path.display(), "has no tensors of a bottleneck", WRONG_ADAPTER));
    }
    Ok(tensors.into_values().collect())
}

/// Writes an adapter that AdapterHub's library loads with `load_adapter(folder, use_safetensors=True)`. The folder is made if need be; each
/// file is written all or nothing, the config last, so that a folder with a config is complete.
///
/// # Errors
/// [`Error::Failed`] if the folder or a file cannot be written; [`Error::BadInput`] if a tensor is none of such an adapter.
pub fn save(folder: &Path, config: &BottleneckConfig, tensors: &[AdapterTensor]) -> Result<()> {
    let in_file = tensors.iter().map(|tensor| {
        let key = names::in_file(&tensor.name, config.text_path, NAME);
        let is_vector = key.as_ref().is_some_and(|key| key.ends_with(".bias"));
        InFile::of(tensor, key, is_vector)
    });
    FILE.write(folder, &in_file.collect::<Result<Vec<_>>>()?, &config_file::to_json(config))
}

const WRONG_ADAPTER: &str = "Check that adapter_config.json and the file with the tensors belong together, and copy both again.";
