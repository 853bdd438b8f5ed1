//! Adapters as PEFT keeps them: a folder with `adapter_config.json` and `adapter_model.safetensors`, or `.bin`.
//!
//! Keys are those of peft's `LoraConfig`. A tensor is called `base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight`
//! in the file, and `layers.3.self_attn.q_proj.lora_a` in this program (`names`). A is `[r, in_features]`, B is `[out_features, r]`, and
//! the adapter adds `scale B A x` with `scale = lora_alpha / r`, or `lora_alpha / sqrt(r)` with `use_rslora`. Rank and alpha of a module
//! may be its own (`patterns`).
//! A key that would change the numbers and is not implemented, or is not known, is refused by name (`config_file`).

mod chosen;
mod config_file;
mod fused;
mod names;
mod patterns;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};

pub use super::adapter_folder::{AdapterTensor, CONFIG};
use super::adapter_folder::{InFile, WeightsFile, read_settings};
use crate::architecture::experts::{ExpertNames, is_router, means_routers};
use crate::{Error, Result};
pub use chosen::Chosen;
use chosen::adopt_modules;
use config_file::ConfigFile;
pub use names::{path as module_path, paths as module_paths, paths_of_site};
pub use patterns::{ALIKE, Modules, Patterns};

/// The file with an adapter's tensors.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// PyTorch's is that of PEFT before 0.7, and of `safe_serialization=False`.
const FILE: WeightsFile = WeightsFile { safetensors: WEIGHTS, pytorch: "adapter_model.bin" };

/// The part of PEFT's `LoraConfig` that graftling uses.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// The rank, where `rank_pattern` has no other.
    pub r: usize,
    /// Where `alpha_pattern` has no other.
    pub lora_alpha: f64,
    /// Share of the adapter's inputs that training drops, 0 to 1 (exclusive).
    pub lora_dropout: f64,
    /// The adapted modules by their own names, sorted: `k_proj`, `q_proj`.
    pub target_modules: Vec<String>,
    /// The adapted layers, sorted; `None` for all.
    pub layers_to_transform: Option<Vec<usize>>,
    /// The adapted modules one by one (`layers.3.self_attn.q_proj`), where they are not all target modules in all those layers.
    pub only: Option<BTreeSet<String>>,
    /// Ranks of some modules.
    pub rank_pattern: Patterns<usize>,
    /// Alphas of some modules.
    pub alpha_pattern: Patterns<f64>,
    /// The base model's name or path.
    pub base_model: Option<String>,
    /// Whether the scale is `lora_alpha / sqrt(r)` (rank-stabilised LoRA, arXiv 2312.03732).
    pub use_rslora: bool,
    /// Whether each row of the weight has a trained length (DoRA, arXiv 2402.09353).
    pub use_dora: bool,
    /// Whether B has a bias, which is scaled as it is.
    pub lora_bias: bool,
    /// Whose biases are trained, where the model has some.
    pub bias: TrainedBiases,
    /// Modules whose whole weight is trained: `embed_tokens`, `lm_head`, and ends of names of norms and of routers (`norm` means all that
    /// end so).
    pub modules_to_save: Vec<String>,
    /// Whether the matrix of `modules_to_save` stays both embedding and output matrix, where the model has one for both.
    pub ensure_weight_tying: bool,
    /// Of each module of which the file has the whole matrix, its rows: those of `modules_to_save`, and what PEFT writes besides where tokens
    /// were added to the vocabulary.
    pub whole_rows: BTreeMap<String, usize>,
    /// Of each module of which some tokens have rows of their own (`trainable_token_indices`), these tokens, strictly increasing.
    pub token_indices: BTreeMap<String, Vec<u32>>,
    /// What stands before `layers.` in the modules' names: [`Architecture::text_path`](crate::architecture::Architecture::text_path).
    pub text_path: &'static str,
    /// How many experts a layer has, of which a file has the matrices one by one; 0 where none are adapted.
    pub experts: usize,
    /// Those of the target modules that are parameters of all experts of a layer (`target_parameters`).
    pub parameters: BTreeSet<String>,
    /// How the file says which modules are adapted; nothing in a config that comes from no file.
    pub chosen: Chosen,
    /// `lora_a0` and `lora_b0` of layers that began with another product than zero, which a file has behind what was trained:
    /// `[A; A0]`, `[B, -B0]`. With any, `r` and alphas are those of the trained half.
    pub taken_out: Vec<AdapterTensor>,
}

/// Which of the model's own biases are trained as a whole: PEFT's `bias`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrainedBiases {
    #[default]
    None,
    /// Of all layers.
    All,
    /// Of those with an adapter.
    LoraOnly,
}

impl TrainedBiases {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::All, Self::LoraOnly];

    /// As PEFT calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::All => "all",
            Self::LoraOnly => "lora_only",
        }
    }
}

impl Default for AdapterConfig {
    /// PEFT's defaults; no modules.
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: Vec::new(),
            layers_to_transform: None,
            only: None,
            rank_pattern: Patterns::default(),
            alpha_pattern: Patterns::default(),
            base_model: None,
            use_rslora: false,
            use_dora: false,
            lora_bias: false,
            bias: TrainedBiases::None,
            modules_to_save: Vec::new(),
            ensure_weight_tying: false,
            whole_rows: BTreeMap::new(),
            token_indices: BTreeMap::new(),
            text_path: "",
            experts: 0,
            parameters: BTreeSet::new(),
            chosen: Chosen::default(),
            taken_out: Vec::new(),
        }
    }
}

/// What the [`CONFIG`] of a folder says, key by key, whether graftling understands it or not.
///
/// # Errors
/// Bad input: there is none, or it is no JSON object.
pub fn raw_config(folder: &Path) -> Result<Map<String, Value>> {
    read_settings(&folder.join(CONFIG))
}

impl AdapterConfig {
    /// Whether a folder has an adapter, as far as the names of its files say.
    pub fn is_in(folder: &Path) -> bool {
        FILE.is_in(folder)
    }

    /// Is this module of this layer adapted? `site`: `layers.3.self_attn.q_proj`.
    pub fn adapts(&self, layer: usize, module: &str, site: &str) -> bool {
        match &self.only {
            Some(only) => only.contains(site),
            None => {
                self.layers_to_transform.as_ref().is_none_or(|layers| layers.contains(&layer))
                    && self.target_modules.iter().any(|target| target == module)
            }
        }
    }

    /// The rank of the module with this path (`model.layers.3.self_attn.q_proj`).
    pub fn rank_of(&self, path: &str) -> usize {
        self.rank_pattern.get(path).copied().unwrap_or(self.r)
    }

    /// The factor of `B A x` of the module with this path.
    pub fn scale_of(&self, path: &str) -> f64 {
        self.scaled(*self.alpha_pattern.get(path).unwrap_or(&self.lora_alpha), self.rank_of(path))
    }

    fn scaled(&self, alpha: f64, r: usize) -> f64 {
        alpha / if self.use_rslora { (r as f64).sqrt() } else { r as f64 }
    }

    /// Rank and factor of a linear layer that is the modules with these paths: one, or the experts of a layer.
    ///
    /// # Errors
    /// The key, and what is wrong: by it one has another rank or alpha than those before it.
    pub fn rank_and_scale(&self, paths: &[String]) -> std::result::Result<(usize, f64), (&'static str, String)> {
        let r = self.rank_pattern.of_all(paths, self.r).map_err(|problem| ("rank_pattern", problem))?;
        let alpha = self.alpha_pattern.of_all(paths, self.lora_alpha).map_err(|problem| ("alpha_pattern", problem))?;
        Ok((r, self.scaled(alpha, r)))
    }

    /// Those of `modules_to_save` that mean modules of layers, and the last norm.
    fn ends_to_save(&self) -> impl Iterator<Item = &str> {
        let is_end = |name: &&String| names::VOCABULARY.iter().all(|(module, _)| module != name);
        self.modules_to_save.iter().filter(is_end).map(String::as_str)
    }

    /// Those of `modules_to_save` that mean norms.
    pub fn norms_to_save(&self) -> impl Iterator<Item = &str> {
        self.ends_to_save().filter(|name| !means_routers(name))
    }

    /// Those of `modules_to_save` that mean routers of experts.
    pub fn routers_to_save(&self) -> impl Iterator<Item = &str> {
        self.ends_to_save().filter(|name| means_routers(name))
    }

    /// The factor of `B A x`, where no pattern has another rank or alpha.
    pub fn scale(&self) -> f64 {
        self.scale_of("")
    }
}

/// Reads a PEFT adapter. Tensors come sorted by name, with every A and its B; modules and layers are those of the tensors,
/// so an adapter whose `target_modules` is a pattern is as good as one with a list.
///
/// # Errors
/// [`Error::BadInput`] naming the file, key or tensor: no adapter, another method than LoRA, an option that
/// graftling does not have, a tensor that is missing, of a wrong shape, or not finite.
pub fn load_adapter(dir: &Path) -> Result<(AdapterConfig, Vec<AdapterTensor>)> {
    load_adapter_of(dir, &ExpertNames::USUAL)
}

/// [`load_adapter`], where experts that a file has in one parameter, and so without names, get those of a family, and routers that of the
/// family, whichever version of transformers wrote them.
///
/// # Errors
/// As [`load_adapter`].
pub fn load_adapter_of(dir: &Path, names: &ExpertNames) -> Result<(AdapterConfig, Vec<AdapterTensor>)> {
    let path = dir.join(CONFIG);
    if !path.exists() {
        let proposal = "Give the folder that PEFT or `graftling train` has written, with adapter_config.json in it.";
        return Err(Error::bad_input(dir.display(), "is no PEFT adapter: it has no adapter_config.json", proposal));
    }
    let mut config = ConfigFile::read(&path)?.into_config()?;
    let weights = FILE.find(dir)?;
    let (tensors, paths) = read::tensors(&weights, &mut config, names)?;
    config.modules_to_save.iter_mut().for_each(|saved| *saved = router_name(saved, names));
    // Where experts are parameters, so is their router to an adapter.
    let has_router = |site: &String| names.together && site.rsplit('.').next() == Some(names.router);
    config.parameters.extend(paths.keys().any(has_router).then(|| names.router.to_owned()));
    adopt_modules(&weights, &mut config, &paths)?;
    Ok((config, tensors))
}

/// Writes an adapter that PEFT loads. The folder is made if need be; each file is written all or nothing, the config last, so
/// that a folder with a config is complete.
///
/// # Errors
/// [`Error::Failed`] if the folder or a file cannot be written; [`Error::BadInput`] if a tensor's name or length is not that of
/// an adapter.
pub fn save_adapter(dir: &Path, config: &AdapterConfig, tensors: &[AdapterTensor]) -> Result<()> {
    let with_starts = tensors.iter().map(|tensor| config.with_start(tensor)).collect::<Option<Vec<_>>>().ok_or_else(|| {
        let problem = "has a start of another shape than the matrix";
        Error::bad_input(dir.display(), problem, "This is a mistake in the calling program.")
    })?;
    let adapts = |site: &str| tensors.iter().any(|tensor| tensor.name.strip_suffix(".lora_a") == Some(site));
    let (of_parameters, others): (Vec<_>, Vec<_>) =
        with_starts.into_iter().partition(|tensor| config.is_of_a_parameter(&tensor.name));
    let together = fused::together(of_parameters)
        .map_err(|problem| Error::bad_input(dir.display(), problem, "This is a mistake in the calling program."))?;
    let single: Vec<AdapterTensor> = others.into_iter().flat_map(|tensor| one_by_one(tensor, config.experts)).collect();
    let of_parameters = together.iter().map(|(key, tensor)| InFile::of(tensor, Some(key.clone()), false));
    let in_file = single.iter().flat_map(|tensor| {
        let key = names::in_file(&tensor.name, config.text_path, adapts);
        let of_today = key.as_deref().and_then(names::router_of_today).map(Some);
        let keys = of_today.into_iter().chain([key]);
        keys.map(|key| InFile::of(tensor, key, names::is_vector(&tensor.name))).collect::<Vec<_>>()
    });
    FILE.write(dir, &in_file.chain(of_parameters).collect::<Result<Vec<_>>>()?, &config.to_json())
}

impl AdapterConfig {
    /// A matrix as a file has it: where the layer began with another product than zero, that follows.
    fn with_start(&self, tensor: &AdapterTensor) -> Option<AdapterTensor> {
        let name = format!("{}0", tensor.name);
        let Some(start) = self.taken_out.iter().find(|start| start.name == name) else { return Some(tensor.clone()) };
        let [rows, columns] = tensor.shape;
        if start.shape != tensor.shape || start.values.len() != tensor.values.len() {
            return None;
        }
        let (shape, values) = if tensor.name.ends_with("lora_a") {
            ([2 * rows, columns], [&tensor.values[..], &start.values].concat())
        } else {
            let pair = tensor.values.chunks(columns).zip(start.values.chunks(columns));
            let row = |(b, b0): (&[f32], &[f32])| b.iter().copied().chain(b0.iter().map(|b| -b)).collect::<Vec<f32>>();
            ([rows, 2 * columns], pair.flat_map(row).collect())
        };
        Some(AdapterTensor { name: tensor.name.clone(), shape, values })
    }

    /// Does a matrix (`layers.3.mlp.experts.down_proj.lora_a`) belong to a parameter of all experts?
    fn is_of_a_parameter(&self, name: &str) -> bool {
        let module = name.rsplit('.').nth(1).unwrap_or_default();
        self.parameters.contains(module) && fused::is_parameter(name.rsplit_once('.').map_or("", |(site, _)| site))
    }

    /// `target_parameters`: names that mean them in the adapted layers, since PEFT compares no layers.
    fn target_parameters(&self) -> Vec<String> {
        let usual = ExpertNames::USUAL;
        // Where in a layer, and what follows the module's name.
        let path = |module: &str| match is_router(module) {
            true => format!("{}.{module}", usual.parent),
            false => format!("{}.{module}", usual.experts),
        };
        let parameter = |path: &str| if means_routers(path) { format!("{path}.weight") } else { path.to_owned() };
        let paths = || self.parameters.iter().map(|module| path(module));
        match (&self.only, &self.layers_to_transform) {
            (Some(only), _) => only.iter().filter(|site| self.is_parameter(site)).map(|site| parameter(site)).collect(),
            (None, None) => paths().map(|path| parameter(&path)).collect(),
            (None, Some(layers)) => {
                let of_layer =
                    |layer: &usize| paths().map(|path| parameter(&format!("layers.{layer}.{path}"))).collect::<Vec<_>>();
                layers.iter().flat_map(of_layer).collect()
            }
        }
    }

    /// Is this (`layers.3.mlp.experts.down_proj`, `layers.3.mlp.router`) among the parameters?
    fn is_parameter(&self, site: &str) -> bool {
        let module = site.rsplit('.').next().unwrap_or_default();
        self.parameters.contains(module) && (is_router(module) || fused::is_parameter(site))
    }

    /// The keys that every version of PEFT since 0.8 reads, sorted as PEFT sorts them.
    fn to_json(&self) -> Value {
        // Twice the rank with the same scale.
        let (ranks, alphas) = match (self.taken_out.is_empty(), self.use_rslora) {
            (true, _) => (1, 1.0),
            (false, true) => (2, std::f64::consts::SQRT_2),
            (false, false) => (2, 2.0),
        };
        // PEFT declares an integer, but takes and writes fractions.
        let alpha = |alpha: f64| match alpha * alphas {
            whole if whole.fract() == 0.0 && whole.abs() < 1e9 => json!(whole as i64),
            other => json!(other),
        };
        let object = |entries: Vec<(String, Value)>| Value::Object(entries.into_iter().collect());
        let rank_pattern = self.rank_pattern.entries().iter().map(|(key, r)| (key.clone(), json!(r * ranks)));
        let alpha_pattern = self.alpha_pattern.entries().iter().map(|(key, of_key)| (key.clone(), alpha(*of_key)));
        // By their own names, modules of the model's other parts would be meant too; a pattern or whole names say the layers themselves.
        let in_a_part = !self.text_path.is_empty();
        let target_modules = match &self.only {
            Some(only) => {
                let modules = only.iter().filter(|site| !self.is_parameter(site));
                json!(modules.flat_map(|site| self.paths_of(site)).collect::<Vec<_>>())
            }
            None if in_a_part => json!(self.pattern()),
            None => json!(self.target_modules.iter().filter(|module| !self.parameters.contains(*module)).collect::<Vec<_>>()),
        };
        let layers_to_transform = if in_a_part || self.only.is_some() { Value::Null } else { json!(self.layers_to_transform) };
        // A list is meant for the embedding, and for the output matrix where a model has one for both.
        let token_indices = match self.token_indices.get("embed_tokens") {
            Some(tokens) if self.token_indices.len() == 1 => json!(tokens),
            None if self.token_indices.is_empty() => Value::Null,
            _ => json!(self.token_indices),
        };
        let mut config = json!({
            "alpha_pattern": object(alpha_pattern.collect()),
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model,
            "bias": self.bias.name(),
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": layers_to_transform,
            "lora_alpha": alpha(self.lora_alpha),
            "lora_dropout": self.lora_dropout,
            "modules_to_save": (!self.modules_to_save.is_empty()).then_some(&self.modules_to_save),
            "peft_type": "LORA",
            "r": self.r * ranks,
            "rank_pattern": object(rank_pattern.collect()),
            "revision": null,
            "target_modules": target_modules,
            "task_type": "CAUSAL_LM",
            "trainable_token_indices": token_indices,
            "use_dora": self.use_dora,
            "use_rslora": self.use_rslora,
        });
        // Older versions of PEFT do not know these keys.
        if !self.parameters.is_empty() {
            config["target_parameters"] = json!(self.target_parameters());
        }
        if self.ensure_weight_tying {
            config["ensure_weight_tying"] = json!(true);
        }
        config
    }

    /// The names of a module, or of those of all experts, that PEFT takes for these and no others.
    fn paths_of(&self, site: &str) -> Vec<String> {
        names::modules(site, self.experts).into_iter().map(|path| format!("{}{path}", self.text_path)).collect()
    }

    /// The regular expression that PEFT compares with whole module names.
    fn pattern(&self) -> String {
        let layers = match &self.layers_to_transform {
            None => r"\d+".to_owned(),
            Some(layers) => layers.iter().map(usize::to_string).collect::<Vec<_>>().join("|"),
        };
        let part = self.text_path.replace('.', r"\.");
        let modules = self.target_modules.join("|");
        format!(r"model\.{part}layers\.({layers})\.(self_attn|mlp)\.({modules})")
    }
}

/// The matrices of single experts, of that of all of them; any other as it is.
fn one_by_one(tensor: AdapterTensor, experts: usize) -> Vec<AdapterTensor> {
    let names = names::modules(&tensor.name, experts);
    if names == [tensor.name.as_str()] {
        return vec![tensor];
    }
    let [rows, columns] = [tensor.shape[0] / experts, tensor.shape[1]];
    let of = |(name, values): (String, &[f32])| AdapterTensor { name, shape: [rows, columns], values: values.to_vec() };
    names.into_iter().zip(tensor.values.chunks(rows * columns)).map(of).collect()
}

/// The module whose tokens a list in `trainable_token_indices` means.
const EMBEDDING: &str = "embed_tokens";

/// What most families call the routers of their experts.
const ROUTER: &str = ExpertNames::USUAL.router;

/// A name of `modules_to_save` as a family goes by it: what hangs on something else than in other families is meant by its own name, if all of
/// it is, since that is the same in every version of transformers.
pub fn router_name(saved: &str, names: &ExpertNames) -> String {
    if names.parent == ExpertNames::USUAL.parent || !saved.ends_with(ROUTER) {
        return saved.to_owned();
    }
    let named = names.of_today(saved);
    if named == format!("{}.{ROUTER}", names.parent) { ROUTER.to_owned() } else { named }
}

const WRONG_ADAPTER: &str = "Check that adapter_config.json and adapter_model.safetensors belong together, and copy both again.";
