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

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};

pub use super::adapter_folder::{AdapterTensor, CONFIG};
use super::adapter_folder::{InFile, Tensors, WeightsFile, read_settings};
use crate::architecture::experts::ExpertNames;
use crate::{Error, Result};
pub use chosen::Chosen;
use chosen::{Paths, adopt_modules};
use config_file::ConfigFile;
use names::OfVocabulary;
pub use names::{path as module_path, paths as module_paths};
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
    /// Modules whose whole weight is trained: `embed_tokens`, `lm_head`, and ends of names of norms (`norm` means all that end so).
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

    /// Those of `modules_to_save` that mean norms.
    pub fn norms_to_save(&self) -> impl Iterator<Item = &str> {
        let is_norm = |name: &&String| names::VOCABULARY.iter().all(|(module, _)| module != name);
        self.modules_to_save.iter().filter(is_norm).map(String::as_str)
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

/// [`load_adapter`], where experts that a file has in one parameter, and so without names, get those of a family.
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
    let (tensors, paths) = read_tensors(&weights, &mut config, names)?;
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
    let single: Vec<AdapterTensor> = with_starts.into_iter().flat_map(|tensor| one_by_one(tensor, config.experts)).collect();
    let in_file = single.iter().map(|tensor| {
        let key = names::in_file(&tensor.name, config.text_path, adapts);
        InFile::of(tensor, key, names::is_vector(&tensor.name))
    });
    FILE.write(dir, &in_file.collect::<Result<Vec<_>>>()?, &config.to_json())
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
            Some(only) => json!(only.iter().flat_map(|site| self.paths_of(site)).collect::<Vec<_>>()),
            None if in_a_part => json!(self.pattern()),
            None => json!(self.target_modules),
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
        // Older versions of PEFT do not know the key.
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

/// The matrices of all experts, of those of single ones: by name, then by number.
///
/// # Errors
/// The name of a matrix, what is wrong with it, and what to do: an expert has none, or one of another shape.
fn all_together(
    found: BTreeMap<String, BTreeMap<usize, AdapterTensor>>,
) -> std::result::Result<(Vec<AdapterTensor>, usize), (String, String, &'static str)> {
    let count = found.values().filter_map(|of| of.keys().last()).max().map_or(0, |last| last.saturating_add(1));
    let mut tensors = Vec::with_capacity(found.len());
    for (name, of) in found {
        let number = |expert: usize| names::of_expert(&name, expert).unwrap_or_default();
        if let Some(lacking) = (0..count).find(|expert| !of.contains_key(expert)) {
            let problem = "is missing, and other experts have theirs: graftling adapts all of them".to_owned();
            return Err((number(lacking), problem, WRONG_ADAPTER));
        }
        let shape = of.values().next().map_or([0, 0], |tensor| tensor.shape);
        if let Some((expert, tensor)) = of.iter().find(|(_, tensor)| tensor.shape != shape) {
            let problem = format!("has shape {:?}, and that of expert 0 {shape:?}", tensor.shape);
            return Err((number(*expert), format!("{problem}: graftling has one rank for all experts of a layer"), ALIKE));
        }
        let values = of.into_values().flat_map(|tensor| tensor.values).collect();
        tensors.push(AdapterTensor { name, shape: [count * shape[0], shape[1]], values });
    }
    Ok((tensors, count))
}

/// All matrices of the file, sorted by name, each layer with all of its own; and of each adapted layer (`layers.3.self_attn.q_proj`) what it is
/// called in the file.
fn read_tensors(path: &Path, config: &mut AdapterConfig, names: &ExpertNames) -> Result<(Vec<AdapterTensor>, Paths)> {
    let file = Tensors::open(path)?;
    let bad = |key: &str, problem: &str, proposal: &str| file.bad(key, problem, proposal);
    let (mut tensors, mut paths) = (BTreeMap::new(), Paths::new());
    let mut of_experts: BTreeMap<String, BTreeMap<usize, AdapterTensor>> = BTreeMap::new();
    let mut fused = BTreeMap::new();
    for info in file.infos() {
        let key = info.name.as_str();
        if let Some(norm) = names::norm(key) {
            let Ok(name) = norm else { continue };
            let &[size] = info.shape.as_slice() else {
                return Err(bad(key, &format!("has shape {:?}, not [hidden]", info.shape), WRONG_ADAPTER));
            };
            let path = name.strip_suffix(".weight").unwrap_or(&name);
            if !config.norms_to_save().any(|saved| names::path(path, "").ends_with(saved)) {
                return Err(bad(key, &format!("is there, but {CONFIG} does not list it in modules_to_save"), WRONG_ADAPTER));
            }
            let values = file.values(key)?;
            tensors.insert(name.clone(), AdapterTensor { name, shape: [size, 1], values });
            continue;
        }
        if let Some(name) = names::bias(key) {
            let &[size] = info.shape.as_slice() else {
                return Err(bad(key, &format!("has shape {:?}, not [out]", info.shape), WRONG_ADAPTER));
            };
            if config.bias == TrainedBiases::None {
                return Err(bad(key, &format!("is there, but {CONFIG} does not say bias"), WRONG_ADAPTER));
            }
            let values = file.values(key)?;
            if tensors.insert(name.clone(), AdapterTensor { name, shape: [size, 1], values }).is_some() {
                return Err(bad(key, "occurs twice, with and without `base_layer` in its key", WRONG_ADAPTER));
            }
            continue;
        }
        if let Some((module, what)) = names::of_vocabulary(key) {
            let &[rows, columns] = info.shape.as_slice() else {
                return Err(bad(key, &format!("has shape {:?}, not [tokens, hidden]", info.shape), WRONG_ADAPTER));
            };
            let own_name = match what {
                OfVocabulary::Original => continue,
                OfVocabulary::Whole => "weight",
                // What a list means for the embedding alone, a file of a model with one matrix for both may have twice.
                OfVocabulary::Rows
                    if !config.token_indices.contains_key(module) && config.token_indices.contains_key(EMBEDDING) =>
                {
                    continue;
                }
                OfVocabulary::Rows => "token_rows",
            };
            let mut values = file.values(key)?;
            if what == OfVocabulary::Whole {
                let before = config.whole_rows.insert(module.to_owned(), rows);
                if before.is_some_and(|before| before != rows) {
                    return Err(bad(key, &format!("has {rows} rows, and another key of {module} has others"), WRONG_ADAPTER));
                }
            } else {
                values = in_token_order(config.token_indices.get_mut(module), &values, [rows, columns])
                    .map_err(|problem| bad(key, &problem, WRONG_ADAPTER))?;
            }
            let name = format!("{module}.{own_name}");
            tensors.insert(name.clone(), AdapterTensor { name, shape: [rows, columns], values });
            continue;
        }
        if let Some(place) = fused::of_key(key) {
            let &[rows, columns] = info.shape.as_slice() else {
                return Err(bad(key, &format!("has shape {:?}, not two dimensions", info.shape), WRONG_ADAPTER));
            };
            let values = file.values(key)?;
            fused.insert(place, AdapterTensor { name: key.to_owned(), shape: [rows, columns], values });
            continue;
        }
        let Some(named) = names::of_key(key) else {
            return Err(bad(
                key,
                "is not the lora_A or lora_B of a linear module in a layer",
                "graftling adapts the projections of attention and MLP; train the adapter without embeddings, lm_head or other parts.",
            ));
        };
        let r = config.rank_of(&named.path);
        paths.entry(named.site().to_owned()).or_default().insert(named.path.clone());
        let name = named.name;
        let (expected, rank) = match () {
            _ if names::is_vector(&name) => ("[out]", None),
            _ if name.ends_with("lora_a") => ("[r, in]", Some(info.shape.first())),
            _ => ("[out, r]", Some(info.shape.get(1))),
        };
        let shape = match *info.shape.as_slice() {
            [rows, columns] if rank.is_some() => [rows, columns],
            [rows] if rank.is_none() => [rows, 1],
            _ => return Err(bad(key, &format!("has shape {:?}, not {expected}", info.shape), WRONG_ADAPTER)),
        };
        if rank.is_some_and(|found| found != Some(&r)) {
            return Err(bad(
                key,
                &format!("has shape {:?}, but r is {r} and the shape must be {expected}", info.shape),
                WRONG_ADAPTER,
            ));
        }
        let own_name = name.rsplit('.').next().unwrap_or_default();
        let wanted = |own: &str, is: bool| own_name != own || is;
        if !wanted("lora_magnitude_vector", config.use_dora) || !wanted("lora_b_bias", config.lora_bias) {
            let option = if config.use_dora { "lora_bias" } else { "use_dora or lora_bias" };
            return Err(bad(key, &format!("is there, but {CONFIG} does not say {option}"), WRONG_ADAPTER));
        }
        let values = file.values(key)?;
        let tensor = AdapterTensor { name: name.clone(), shape, values };
        let before = match named.expert {
            Some(expert) => of_experts.entry(name).or_default().insert(expert, tensor),
            None => tensors.insert(name, tensor),
        };
        if before.is_some() {
            return Err(bad(key, "occurs twice, with and without `default` in its key", WRONG_ADAPTER));
        }
    }
    let (together, count) = all_together(of_experts).map_err(|(name, problem, proposal)| bad(&name, &problem, proposal))?;
    config.experts = count;
    let apart = fused::apart(config, names, fused).map_err(|problem| Error::bad_input(path.display(), problem, WRONG_ADAPTER))?;
    for tensor in apart {
        let site = tensor.name.rsplit_once('.').map_or("", |(site, _)| site);
        paths.entry(site.to_owned()).or_default().extend(names::paths(site, config.experts, ""));
        tensors.insert(tensor.name.clone(), tensor);
    }
    tensors.extend(together.into_iter().map(|tensor| (tensor.name.clone(), tensor)));
    // Of a list that has no rows of its own, because it is that of another module.
    config.token_indices.values_mut().for_each(|tokens| tokens.sort_unstable());
    let mut owed = vec!["lora_a", "lora_b"];
    owed.extend(config.use_dora.then_some("lora_magnitude_vector"));
    owed.extend(config.lora_bias.then_some("lora_b_bias"));
    let is_beside = |name: &str| names::vocabulary_module(name).is_some() || names::is_norm(name) || names::is_bias(name);
    for module in &config.modules_to_save {
        let is_norm = config.norms_to_save().any(|norm| norm == module);
        let of_norm = |name: &String| names::is_norm(name) && names::path(name, "").ends_with(&format!("{module}.weight"));
        let is_there = if is_norm { tensors.keys().any(of_norm) } else { tensors.contains_key(&format!("{module}.weight")) };
        if !is_there {
            return Err(bad(module, &format!("is missing, which {CONFIG} lists in modules_to_save"), WRONG_ADAPTER));
        }
    }
    for (module, tokens) in &config.token_indices {
        // Where a model has one matrix for both, the rows are in the file once.
        let is_copy = config.token_indices.get(EMBEDDING) == Some(tokens) && module != EMBEDDING;
        if !is_copy && !tensors.contains_key(&format!("{module}.token_rows")) {
            let problem = format!("rows are missing, which {CONFIG} lists in trainable_token_indices");
            return Err(bad(module, &problem, WRONG_ADAPTER));
        }
    }
    for name in tensors.keys().filter(|name| !is_beside(name)) {
        let site = name.rsplit_once('.').map_or("", |(site, _)| site);
        let missing = owed.iter().map(|own| format!("{site}.{own}")).find(|partner| !tensors.contains_key(partner));
        if let Some(partner) = missing {
            return Err(bad(name, &format!("is there, but {partner} is missing"), WRONG_ADAPTER));
        }
    }
    if tensors.keys().all(|name| is_beside(name)) {
        return Err(Error::bad_input(path.display(), "has no tensors of LoRA", WRONG_ADAPTER));
    }
    Ok((tensors.into_values().collect(), paths))
}

/// The module whose tokens a list in `trainable_token_indices` means.
const EMBEDDING: &str = "embed_tokens";

/// Rows in the order of their tokens, into which `tokens` is brought too.
fn in_token_order(
    tokens: Option<&mut Vec<u32>>,
    rows: &[f32],
    [count, columns]: [usize; 2],
) -> std::result::Result<Vec<f32>, String> {
    let Some(tokens) = tokens else { return Err(format!("is there, but {CONFIG} has no trainable_token_indices for it")) };
    if tokens.len() != count {
        return Err(format!("has {count} rows, but trainable_token_indices has {} tokens", tokens.len()));
    }
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|&row| tokens[row]);
    *tokens = order.iter().map(|&row| tokens[row]).collect();
    if let Some(pair) = tokens.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("has two rows for token {}", pair[0]));
    }
    Ok(order.iter().flat_map(|&row| &rows[row * columns..(row + 1) * columns]).copied().collect())
}

const WRONG_ADAPTER: &str = "Check that adapter_config.json and adapter_model.safetensors belong together, and copy both again.";
