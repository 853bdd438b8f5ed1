//! What a user calls a model, opened: a folder, a `.gguf` file, or a Hugging Face name.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::{
    TextSource,
    gguf::Gguf,
    hub::{self, Hub},
    hugging_face,
};
use crate::{
    Error, Result,
    architecture::{Architecture, OUTPUT_TENSOR, parameters},
    files,
    storage::TensorSource,
};

/// A model that can be trained: its config is supported, and all its weights are there with the right shapes.
pub struct ModelFiles {
    /// For people: the folder's or file's name, or the Hugging Face name.
    pub name: String,
    /// Where its files are: a folder or a GGUF file.
    pub place: ModelPlace,
    pub config: Architecture,
    pub tensors: Box<dyn TensorSource>,
    pub text: TextSource,
}

/// Where the files of a model are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelPlace {
    Folder(PathBuf),
    Gguf(PathBuf),
    /// A `config.json` alone, which is enough to count parameters.
    Config(PathBuf),
    /// A name on the Hugging Face hub: `owner/name`, or `owner/name@revision`.
    Hub(String),
}

impl ModelPlace {
    /// Decides what `spec` means. What exists on the disk comes first.
    ///
    /// # Errors
    /// [`Error::BadInput`] if nothing of that name is there and it is no possible Hugging Face name, or if it is a file of
    /// another kind.
    pub fn of(spec: &str) -> Result<Self> {
        let path = PathBuf::from(spec);
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("").to_ascii_lowercase();
        if path.is_dir() {
            return Ok(Self::Folder(path));
        }
        if path.is_file() {
            return match extension.as_str() {
                "gguf" => Ok(Self::Gguf(path)),
                "json" => Ok(Self::Config(path)),
                "safetensors" | "bin" | "pt" | "pth" | "ckpt" => {
                    let problem = "is a file of weights without a config";
                    Err(Error::bad_input(
                        spec,
                        problem,
                        "Give the folder that holds it together with config.json and tokenizer.json.",
                    ))
                }
                _ => Err(Error::bad_input(spec, "is no kind of model file that graftling knows", WHAT_A_MODEL_IS)),
            };
        }
        if let Some(kind) = path.metadata().ok().and_then(|metadata| files::special(metadata.file_type())) {
            return Err(Error::bad_input(spec, format!("is {kind}, not a file or folder"), WHAT_A_MODEL_IS));
        }
        if hub::is_name(spec) && !matches!(extension.as_str(), "gguf" | "json" | "safetensors") {
            return Ok(Self::Hub(spec.to_owned()));
        }
        Err(Error::bad_input(spec, "does not exist", WHAT_A_MODEL_IS))
    }
}

const WHAT_A_MODEL_IS: &str =
    "Give a folder with config.json, tokenizer.json and *.safetensors, a .gguf file, or a Hugging Face name such as owner/model.";

impl ModelFiles {
    /// Opens a model: a folder, a `.gguf` file, or a Hugging Face name (which is downloaded if it is not in the cache).
    /// Weights are mapped, not read.
    ///
    /// # Errors
    /// [`Error::BadInput`] if there is no such model, its architecture is not supported, a file is not sound, or a tensor is
    /// missing or has another shape than the config says; [`Error::Failed`] if a download fails.
    pub fn open(spec: &str) -> Result<Self> {
        match ModelPlace::of(spec)? {
            ModelPlace::Folder(folder) => Self::open_folder(&folder, display_name(&folder)),
            ModelPlace::Gguf(path) => Self::open_gguf(&path),
            ModelPlace::Config(path) => {
                let problem = "is a config without weights";
                Err(Error::bad_input(
                    path.display(),
                    problem,
                    "Give the folder that holds it together with the *.safetensors files.",
                ))
            }
            ModelPlace::Hub(name) => {
                let hub = Hub::from_environment()?;
                // The config decides whether gigabytes are worth fetching.
                hugging_face::config(&hub.fetch_descriptions(&name)?)?.supported()?;
                Self::open_folder(&hub.fetch_weights(&name)?, name)
            }
        }
    }

    fn open_folder(folder: &Path, name: String) -> Result<Self> {
        let mut config = hugging_face::config(folder)?;
        config.supported()?;
        let tensors = hugging_face::weights(folder, &mut config)?;
        let tensors = super::experts::stacked(&config, Box::new(tensors))?;
        check_tensors(&config, &*tensors)?;
        let text = hugging_face::text(folder, &config)?;
        Ok(Self { name, place: ModelPlace::Folder(folder.to_owned()), config, tensors, text })
    }

    fn open_gguf(path: &Path) -> Result<Self> {
        let gguf = Gguf::open(path)?;
        let config = gguf.config().clone();
        config.supported()?;
        check_tensors(&config, &gguf)?;
        let text = gguf.text()?;
        let place = ModelPlace::Gguf(path.to_owned());
        Ok(Self { name: display_name(path), place, config, tensors: Box::new(gguf), text })
    }
}

/// The last part of a path, without `.gguf` and the number of a part.
fn display_name(path: &Path) -> String {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let name = if full.extension().is_some_and(|extension| extension == "gguf") { full.file_stem() } else { full.file_name() };
    name.map_or_else(|| full.display().to_string(), |name| super::gguf::parts::whole_name(&name.to_string_lossy()).to_owned())
}

/// Compares the weights with what the config asks for: nothing missing, nothing of another shape, nothing that would have to
/// be ignored in a layer (a bias or norm that the architecture does not have would silently change the model).
///
/// # Errors
/// [`Error::BadInput`] naming the first tensor that does not fit, with the expected shape.
pub fn check_tensors(config: &Architecture, tensors: &dyn TensorSource) -> Result<()> {
    let unreadable: HashMap<&str, &str> =
        tensors.unreadable().iter().map(|(name, kind)| (name.as_str(), kind.as_str())).collect();
    let mut left: std::collections::HashSet<&str> = tensors.tensors().iter().map(|info| info.name.as_str()).collect();
    left.extend(unreadable.keys());
    for parameter in parameters(config) {
        let name = parameter.name.as_str();
        let place = || format!("{}: tensor {name}", tensors.place(name));
        left.remove(name);
        if let Some(kind) = unreadable.get(name) {
            return Err(Error::bad_input(
                place(),
                format!("is {kind}, which graftling does not read"),
                "Use a file in F32, F16 or BF16, or a GGUF file in Q8_0, Q6_K, Q5_K, Q4_K, Q5_0, Q4_0 or another type that docs/limits.md lists.",
            ));
        }
        let Some(info) = tensors.find(name) else {
            let proposal = if name == OUTPUT_TENSOR {
                "The config says that input and output embeddings are not tied, so the file must have it: download the model again."
            } else {
                "The file is incomplete or belongs to another model: download or convert it again."
            };
            return Err(Error::bad_input(place(), format!("is missing; its shape would be {:?}", parameter.shape), proposal));
        };
        if info.shape != parameter.shape {
            let problem = format!("has shape {:?}, but the config asks for {:?}", info.shape, parameter.shape);
            return Err(Error::bad_input(
                place(),
                problem,
                "Config and weights belong to different models: download them again together.",
            ));
        }
    }
    let (harmless, others): (Vec<&str>, Vec<&str>) = left.into_iter().partition(|name| is_no_parameter(name));
    if let Some(first) = harmless.iter().min() {
        tracing::info!(
            "{}: {} tensors are no parameters and are passed over, such as {first}",
            tensors.place(first),
            harmless.len()
        );
    }
    let mut in_a_layer: Vec<&str> =
        others.into_iter().filter(|name| name.starts_with("model.layers.") || name.starts_with("blk.")).collect();
    in_a_layer.sort_unstable();
    for name in in_a_layer {
        // AutoGPTQ gives every layer a bias, of zeros where the model has none.
        let is_zero = |values: Vec<f32>| values.iter().all(|value| *value == 0.0);
        if name.ends_with(".bias") && tensors.find(name).is_some() && is_zero(tensors.read_f32(name)?) {
            continue;
        }
        return Err(Error::bad_input(
            format!("{}: tensor {name}", tensors.place(name)),
            format!(
                "is not part of a {} with {} layers, and ignoring it would change the model",
                config.class, config.num_hidden_layers
            ),
            "Config and weights belong to different models, or the model is a variant that graftling does not know.",
        ));
    }
    Ok(())
}

/// Whether a tensor is a table or a state that a library saved beside the parameters, and computes anew or does not use: RoPE's
/// frequencies, causal masks, Transformer Engine's FP8 state.
fn is_no_parameter(name: &str) -> bool {
    let own_name = name.rsplit('.').next().unwrap_or(name);
    name.contains("rotary_emb.")
        || matches!(own_name, "_extra_state" | "masked_bias" | "position_ids")
        || name.ends_with(".attn.bias")
}
