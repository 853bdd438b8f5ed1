//! Adapters as PEFT keeps them: a folder with `adapter_config.json` and `adapter_model.safetensors`, or `.bin`.
//!
//! Keys are those of peft's `LoraConfig`. A tensor is called `base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight`
//! in the file, and `layers.3.self_attn.q_proj.lora_a` in this program. A is `[r, in_features]`, B is `[out_features, r]`, and
//! the adapter adds `scale B A x` with `scale = lora_alpha / r`, or `lora_alpha / sqrt(r)` with `use_rslora`.
//! A key that would change the numbers and is not implemented (DoRA, biases, rank patterns, ...), or is not known, is refused by name.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};

use super::{atomic, folder_weights::FolderWeights, open};
use crate::storage::TensorSource;
use crate::{Error, Result};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// Of PEFT before 0.7, and of `safe_serialization=False`; read and never written.
const PYTORCH: &str = "adapter_model.bin";

/// What PEFT puts before the path of a module of a causal language model.
const PREFIX: &str = "base_model.model.model.";
/// What follows for the text part of a model that has others; transformers 4 had the two the other way round.
const TEXT_PART: &str = "language_model.";
const OLD_TEXT_PREFIX: &str = "base_model.model.language_model.model.";

/// The part of PEFT's `LoraConfig` that graftling uses.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// The rank.
    pub r: usize,
    pub lora_alpha: f64,
    /// Share of the adapter's inputs that training drops, 0 to 1 (exclusive).
    pub lora_dropout: f64,
    /// The adapted modules by their own names, sorted: `k_proj`, `q_proj`.
    pub target_modules: Vec<String>,
    /// The adapted layers, sorted; `None` for all.
    pub layers_to_transform: Option<Vec<usize>>,
    /// The base model's name or path.
    pub base_model: Option<String>,
    /// Whether the scale is `lora_alpha / sqrt(r)` (rank-stabilised LoRA, arXiv 2312.03732).
    pub use_rslora: bool,
    /// What stands before `layers.` in the modules' names: [`Architecture::text_path`](crate::architecture::Architecture::text_path).
    pub text_path: &'static str,
    /// Listed in `target_modules`, but the file has no tensors of it. Right for a module that the model does not have: PEFT writes one
    /// list for several families.
    pub without_tensors: Vec<String>,
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
            base_model: None,
            use_rslora: false,
            text_path: "",
            without_tensors: Vec::new(),
        }
    }
}

impl AdapterConfig {
    /// Is this module of this layer adapted?
    pub fn adapts(&self, layer: usize, module: &str) -> bool {
        self.layers_to_transform.as_ref().is_none_or(|layers| layers.contains(&layer))
            && self.target_modules.iter().any(|target| target == module)
    }

    /// The factor of `B A x`.
    pub fn scale(&self) -> f64 {
        self.lora_alpha / if self.use_rslora { (self.r as f64).sqrt() } else { self.r as f64 }
    }
}

/// One matrix of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterTensor {
    /// `layers.3.self_attn.q_proj.lora_a` or `....lora_b`
    pub name: String,
    /// A: `[r, in_features]`; B: `[out_features, r]`.
    pub shape: [usize; 2],
    /// Row-major.
    pub values: Vec<f32>,
}

/// Reads a PEFT adapter. Tensors come sorted by name, with every A and its B; modules and layers are those of the tensors,
/// so an adapter whose `target_modules` is a pattern is as good as one with a list.
///
/// # Errors
/// [`Error::BadInput`] naming the file, key or tensor: no adapter, another method than LoRA, an option that
/// graftling does not have, a tensor that is missing, of a wrong shape, or not finite.
pub fn load_adapter(dir: &Path) -> Result<(AdapterConfig, Vec<AdapterTensor>)> {
    let path = dir.join(CONFIG);
    if !path.exists() {
        let proposal = "Give the folder that PEFT or `graftling train` has written, with adapter_config.json in it.";
        return Err(Error::bad_input(dir.display(), "is no PEFT adapter: it has no adapter_config.json", proposal));
    }
    let mut config = ConfigFile::read(&path)?.into_config()?;
    // In PEFT's order.
    let Some(weights) = [WEIGHTS, PYTORCH].map(|name| dir.join(name)).into_iter().find(|path| path.exists()) else {
        return Err(Error::bad_input(dir.display(), format!("has no {WEIGHTS}"), "Copy the whole folder of the adapter."));
    };
    let tensors = read_tensors(&weights, config.r)?;
    adopt_modules(&weights, &mut config, &tensors)?;
    Ok((config, tensors))
}

/// Writes an adapter that PEFT loads. The folder is made if need be; each file is written all or nothing, the config last, so
/// that a folder with a config is complete.
///
/// # Errors
/// [`Error::Failed`] if the folder or a file cannot be written; [`Error::BadInput`] if a tensor's name or length is not that of
/// an adapter.
pub fn save_adapter(dir: &Path, config: &AdapterConfig, tensors: &[AdapterTensor]) -> Result<()> {
    fs::create_dir_all(dir).map_err(|error| {
        Error::failed(dir.display(), format!("cannot be made: {error}"), "Choose an output folder that you may write to.")
    })?;
    let mut views = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let bad = |problem| {
            Error::bad_input(format!("adapter tensor {}", tensor.name), problem, "This is a mistake in the calling program.")
        };
        let name =
            peft_name(&tensor.name, config.text_path).ok_or_else(|| bad("has a name that does not end in lora_a or lora_b"))?;
        let bytes = bytemuck::cast_slice(&tensor.values);
        let view =
            TensorView::new(Dtype::F32, tensor.shape.to_vec(), bytes).map_err(|_| bad("has another length than its shape"))?;
        views.push((name, view));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|error| {
        Error::failed(
            dir.join(WEIGHTS).display(),
            format!("cannot be put together: {error}"),
            "Report this as a defect of graftling.",
        )
    })?;
    atomic::write_atomically(&dir.join(WEIGHTS), &bytes)?;
    let mut text = format!("{:#}", config.to_json());
    text.push('\n');
    atomic::write_atomically(&dir.join(CONFIG), text.as_bytes())
}

impl AdapterConfig {
    /// The keys that every version of PEFT since 0.8 reads, sorted as PEFT sorts them.
    fn to_json(&self) -> Value {
        // PEFT declares an integer, but takes and writes fractions.
        let alpha = if self.lora_alpha.fract() == 0.0 && self.lora_alpha.abs() < 1e9 {
            json!(self.lora_alpha as i64)
        } else {
            json!(self.lora_alpha)
        };
        // By their own names, modules of the model's other parts would be meant too; a pattern names the layers itself.
        let in_a_part = !self.text_path.is_empty();
        let target_modules = if in_a_part { json!(self.pattern()) } else { json!(self.target_modules) };
        let layers_to_transform = if in_a_part { Value::Null } else { json!(self.layers_to_transform) };
        json!({
            "alpha_pattern": {},
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": layers_to_transform,
            "lora_alpha": alpha,
            "lora_dropout": self.lora_dropout,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": self.r,
            "rank_pattern": {},
            "revision": null,
            "target_modules": target_modules,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": self.use_rslora,
        })
    }
}

impl AdapterConfig {
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

/// `layers.3.self_attn.q_proj.lora_a` as PEFT writes it.
fn peft_name(name: &str, text_path: &str) -> Option<String> {
    let (module, matrix) = name.rsplit_once('.')?;
    let matrix = match matrix {
        "lora_a" => "lora_A",
        "lora_b" => "lora_B",
        _ => return None,
    };
    Some(format!("{PREFIX}{text_path}{module}.{matrix}.weight"))
}

/// A PEFT key as this program names it, with the layer and the module's own name; `None` if it is none of a linear module of a
/// layer. Some writers keep the adapter's name (`default`) in the key.
fn our_name(key: &str) -> Option<(String, usize, &str)> {
    let inside = key.strip_prefix(PREFIX).or_else(|| key.strip_prefix(OLD_TEXT_PREFIX))?;
    let path = inside.strip_prefix(TEXT_PART).unwrap_or(inside).strip_suffix(".weight")?;
    let path = path.strip_suffix(".default").unwrap_or(path);
    let (module, matrix) = match path.strip_suffix(".lora_A") {
        Some(module) => (module, "lora_a"),
        None => (path.strip_suffix(".lora_B")?, "lora_b"),
    };
    let (number, inside) = module.strip_prefix("layers.")?.split_once('.')?;
    let layer = number.parse::<usize>().ok().filter(|layer| layer.to_string() == number)?;
    let own_name = inside.strip_prefix("self_attn.").or_else(|| inside.strip_prefix("mlp."))?;
    (!own_name.contains('.')).then(|| (format!("{module}.{matrix}"), layer, own_name))
}

/// All matrices of the file, sorted by name, each A with its B, of rank `r`.
fn read_tensors(path: &Path, r: usize) -> Result<Vec<AdapterTensor>> {
    let file = FolderWeights::open(&[path.to_owned()])?;
    let bad = |key: &str, problem: &str, proposal: &str| {
        Error::bad_input(format!("{}: tensor {key}", path.display()), problem, proposal)
    };
    if let Some((key, kind)) = file.unreadable().first() {
        return Err(bad(key, &format!("is {kind}"), "Save the adapter in f32, f16 or bf16."));
    }
    let mut tensors = BTreeMap::new();
    for info in file.tensors() {
        let key = info.name.as_str();
        let Some((name, _, _)) = our_name(key) else {
            return Err(bad(
                key,
                "is not the lora_A or lora_B of a linear module in a layer",
                "graftling adapts the projections of attention and MLP; train the adapter without embeddings, lm_head or other parts.",
            ));
        };
        let (rank, what) =
            if name.ends_with("lora_a") { (info.shape.first(), "[r, in]") } else { (info.shape.get(1), "[out, r]") };
        let &[rows, columns] = info.shape.as_slice() else {
            return Err(bad(key, &format!("has shape {:?}, not {what}", info.shape), WRONG_ADAPTER));
        };
        if rank != Some(&r) {
            return Err(bad(
                key,
                &format!("has shape {:?}, but r is {r} and the shape must be {what}", info.shape),
                WRONG_ADAPTER,
            ));
        }
        let values = file.read_f32(key)?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(bad(
                key,
                "has values that are not finite",
                "The training that made it has diverged: use an earlier checkpoint.",
            ));
        }
        if tensors.insert(name.clone(), AdapterTensor { name, shape: [rows, columns], values }).is_some() {
            return Err(bad(key, "occurs twice, with and without `default` in its key", WRONG_ADAPTER));
        }
    }
    for name in tensors.keys() {
        let partner = match name.strip_suffix("lora_a") {
            Some(stem) => format!("{stem}lora_b"),
            None => format!("{}a", name.strip_suffix('b').unwrap_or(name)),
        };
        if !tensors.contains_key(&partner) {
            return Err(bad(name, &format!("is there, but {partner} is missing"), WRONG_ADAPTER));
        }
    }
    if tensors.is_empty() {
        return Err(Error::bad_input(path.display(), "has no tensors", WRONG_ADAPTER));
    }
    Ok(tensors.into_values().collect())
}

const WRONG_ADAPTER: &str = "Check that adapter_config.json and adapter_model.safetensors belong together, and copy both again.";

/// Sets modules and layers to what the tensors say, and compares them with what the config says.
fn adopt_modules(path: &Path, config: &mut AdapterConfig, tensors: &[AdapterTensor]) -> Result<()> {
    let mut layers_of: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for tensor in tensors {
        if let Some((_, layer, module)) = peft_name(&tensor.name, "").as_deref().and_then(our_name) {
            layers_of.entry(module.to_owned()).or_default().insert(layer);
        }
    }
    let all_layers: BTreeSet<usize> = layers_of.values().flatten().copied().collect();
    if let Some((module, layers)) = layers_of.iter().find(|(_, layers)| **layers != all_layers) {
        let lacking = all_layers.difference(layers).next().copied().unwrap_or_default();
        return Err(Error::bad_input(
            format!("{}: module {module}", path.display()),
            format!("is not adapted in layer {lacking}, where other modules are"),
            "graftling adapts the same modules in every chosen layer; use an adapter of that kind.",
        ));
    }
    // A list may give paths (`self_attn.q_proj`) of which the last part is the module's own name.
    let listed: BTreeSet<&str> = config.target_modules.iter().map(|name| name.rsplit('.').next().unwrap_or(name)).collect();
    config.without_tensors =
        listed.iter().filter(|module| !layers_of.contains_key(**module)).map(|module| (*module).to_owned()).collect();
    let pattern = config.target_modules.is_empty();
    // PEFT makes no adapter for a module that is not chosen, and so uses none of its tensors.
    if let Some(module) = layers_of.keys().find(|module| !pattern && !listed.contains(module.as_str())) {
        let problem = format!("has tensors of {module}, which {CONFIG} does not choose by target_modules and exclude_modules");
        return Err(Error::bad_input(path.display(), problem, WRONG_ADAPTER));
    }
    match &config.layers_to_transform {
        Some(listed) if !listed.iter().eq(all_layers.iter()) => {
            let problem = format!("has tensors for the layers {all_layers:?}, but {CONFIG} has layers_to_transform {listed:?}");
            return Err(Error::bad_input(path.display(), problem, WRONG_ADAPTER));
        }
        // A pattern may have chosen layers as well as modules.
        None if pattern => config.layers_to_transform = Some(all_layers.into_iter().collect()),
        _ => {}
    }
    config.target_modules = layers_of.into_keys().collect();
    Ok(())
}

/// What a key of `adapter_config.json` means for the numbers of an adapter that is read.
enum Key {
    /// Taken into account.
    Read,
    /// Changes no number of an adapter whose tensors are there.
    Harmless,
    /// Only while it is off: null, false, an empty list or an empty object.
    Off,
}

/// The keys of `LoraConfig` in PEFT 0.21, with those of earlier versions.
const KEYS: [(&str, Key); 47] = [
    ("peft_type", Key::Read),
    ("r", Key::Read),
    ("lora_alpha", Key::Read),
    ("lora_dropout", Key::Read),
    ("use_rslora", Key::Read),
    ("target_modules", Key::Read),
    ("layers_to_transform", Key::Read),
    ("layers_pattern", Key::Read),
    ("exclude_modules", Key::Read),
    ("bias", Key::Read),
    ("init_lora_weights", Key::Read),
    ("base_model_name_or_path", Key::Read),
    // Who made it, from what, and for what.
    ("peft_version", Key::Harmless),
    ("auto_mapping", Key::Harmless),
    ("task_type", Key::Harmless),
    ("revision", Key::Harmless),
    ("inference_mode", Key::Harmless),
    // How PEFT runs it.
    ("runtime_config", Key::Harmless),
    ("megatron_config", Key::Harmless),
    ("megatron_core", Key::Harmless),
    ("merge_weights", Key::Harmless),
    // PEFT turns it off for linear layers.
    ("fan_in_fan_out", Key::Harmless),
    // How the start is made; init_lora_weights says whether it is.
    ("eva_config", Key::Harmless),
    ("corda_config", Key::Harmless),
    ("lora_ga_config", Key::Harmless),
    ("loftq_config", Key::Harmless),
    // Only with an option that must be off.
    ("qalora_group_size", Key::Harmless),
    ("ensure_weight_tying", Key::Harmless),
    ("use_dora", Key::Off),
    ("use_qalora", Key::Off),
    ("use_bdlora", Key::Off),
    ("lora_bias", Key::Off),
    ("rank_pattern", Key::Off),
    ("alpha_pattern", Key::Off),
    ("modules_to_save", Key::Off),
    ("layer_replication", Key::Off),
    ("trainable_token_indices", Key::Off),
    ("target_parameters", Key::Off),
    ("alora_invocation_tokens", Key::Off),
    ("arrow_config", Key::Off),
    ("kasa_config", Key::Off),
    ("velora_config", Key::Off),
    ("monteclora_config", Key::Off),
    ("enable_lora", Key::Off),
    ("use_kasa", Key::Off),
    ("use_velora", Key::Off),
    ("use_monteclora", Key::Off),
];

/// `adapter_config.json`, read with errors that name the key.
struct ConfigFile {
    place: String,
    map: Map<String, Value>,
}

impl ConfigFile {
    fn read(path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        let bad = |problem: String| Error::bad_input(&place, problem, "Copy the adapter's folder again.");
        let text = open::read_text(path, "Copy the adapter's folder again.")?;
        match serde_json::from_str(&text).map_err(|error| bad(format!("is not valid JSON: {error}")))? {
            Value::Object(map) => Ok(Self { place, map }),
            _ => Err(bad("is not a JSON object".to_owned())),
        }
    }

    fn bad(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        let proposal = "graftling reads plain LoRA adapters: train or convert the adapter without this option.";
        Error::bad_input(format!("{}: key `{key}`", self.place), problem, proposal)
    }

    /// The value, where null is the same as absent.
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn into_config(self) -> Result<AdapterConfig> {
        match self.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            Some(other) => return Err(self.bad("peft_type", format!("is {other}; graftling reads LORA only"))),
            None => return Err(self.bad("peft_type", "is missing; for graftling it must be LORA")),
        }
        self.refuse_what_changes_the_numbers()?;
        let number = |key: &str, default: f64| match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|number| number.is_finite())
                .ok_or_else(|| self.bad(key, format!("is {value}, not a number"))),
        };
        let r = self.get("r").and_then(Value::as_u64).and_then(|r| usize::try_from(r).ok()).filter(|&r| r > 0 && r <= 1 << 16);
        let lora_dropout = number("lora_dropout", 0.0)?;
        if !(0.0..1.0).contains(&lora_dropout) {
            return Err(self.bad("lora_dropout", format!("is {lora_dropout}, but must be at least 0 and less than 1")));
        }
        Ok(AdapterConfig {
            r: r.ok_or_else(|| self.bad("r", "is missing or no possible rank"))?,
            lora_alpha: number("lora_alpha", 8.0)?,
            lora_dropout,
            target_modules: self.target_modules().and_then(|listed| self.without_excluded(listed))?,
            layers_to_transform: self.layers()?,
            base_model: self.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned),
            text_path: "",
            use_rslora: self.get("use_rslora") == Some(&Value::Bool(true)),
            without_tensors: Vec::new(),
        })
    }

    /// The modules of the list that `exclude_modules` leaves; none, so that the tensors say which, where it is a pattern.
    fn without_excluded(&self, mut listed: Vec<String>) -> Result<Vec<String>> {
        let pattern = listed.is_empty();
        match self.get("exclude_modules") {
            Some(Value::String(_)) => listed.clear(),
            Some(Value::Array(names)) => {
                let of = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
                let excluded: Vec<String> = names.iter().filter_map(Value::as_str).map(of).collect();
                listed.retain(|name| !excluded.contains(&of(name)));
                if listed.is_empty() && !pattern {
                    return Err(self.bad("exclude_modules", "leaves none of target_modules".to_string()));
                }
            }
            _ => {}
        }
        Ok(listed)
    }

    /// Lets through what graftling computes and what changes no number, by [`KEYS`]; all else is refused by its name, so that an option
    /// that PEFT gains later cannot be passed over in silence.
    fn refuse_what_changes_the_numbers(&self) -> Result<()> {
        let off = |value: &Value| match value {
            Value::Bool(on) => !on,
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            _ => false,
        };
        for (key, value) in self.map.iter().filter(|(_, value)| !value.is_null()) {
            let rule = KEYS.iter().find(|(known, _)| known == key).map(|(_, rule)| rule);
            match rule {
                Some(Key::Read | Key::Harmless) => {}
                Some(Key::Off) if off(value) => {}
                Some(Key::Off) => return Err(self.bad(key, format!("is {value}, which graftling does not support"))),
                None if off(value) => {}
                None => {
                    let problem = format!("is {value}; graftling does not know this key and cannot tell what it changes");
                    return Err(self.bad(key, problem));
                }
            }
        }
        if let Some(bias) = self.get("bias").filter(|bias| bias.as_str() != Some("none")) {
            return Err(self.bad("bias", format!("is {bias}; graftling supports \"none\" only")));
        }
        if let Some(value) = self.get("use_rslora").filter(|value| !value.is_boolean()) {
            return Err(self.bad("use_rslora", format!("is {value}, neither true nor false")));
        }
        let usual = |pattern: &Value| *pattern == json!("layers") || *pattern == json!(["layers"]) || off(pattern);
        if let Some(pattern) = self.get("layers_pattern").filter(|pattern| !usual(pattern)) {
            return Err(self.bad("layers_pattern", format!("is {pattern}; the layers of a Llama model are called `layers`")));
        }
        self.check_start()
    }

    /// Some starts are made by taking the adapter's first product out of the base's weights, and PEFT does so again whenever it loads
    /// such an adapter. The tensors alone would then be added to a base that is not theirs.
    fn check_start(&self) -> Result<()> {
        match self.get("init_lora_weights") {
            None | Some(Value::Bool(_)) => Ok(()),
            Some(Value::String(start)) if matches!(start.as_str(), "gaussian" | "eva") => Ok(()),
            Some(start) => {
                let place = format!("{}: key `init_lora_weights`", self.place);
                let problem = format!(
                    "is {start}: this start changes the base model's weights, so the tensors do not belong to the base as it is"
                );
                let proposal = "Convert it with PEFT to a plain LoRA of the unchanged base: save_pretrained(DIR, \
                                path_initial_model_for_weight_conversion=FOLDER_OF_THE_INITIAL_ADAPTER).";
                Err(Error::bad_input(place, problem, proposal))
            }
        }
    }

    /// The listed modules; empty for a pattern, since the tensors say what it has matched.
    fn target_modules(&self) -> Result<Vec<String>> {
        let wrong = || self.bad("target_modules", "is neither a pattern nor a list of module names");
        match self.get("target_modules") {
            Some(Value::String(_)) => Ok(Vec::new()),
            Some(Value::Array(names)) if !names.is_empty() => {
                names.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
            }
            _ => Err(wrong()),
        }
    }

    fn layers(&self) -> Result<Option<Vec<usize>>> {
        let layer = |value: &Value| value.as_u64().and_then(|layer| usize::try_from(layer).ok());
        let layers: Option<BTreeSet<usize>> = match self.get("layers_to_transform") {
            None => return Ok(None),
            Some(Value::Array(layers)) => layers.iter().map(layer).collect(),
            Some(value) => layer(value).map(|layer| BTreeSet::from([layer])),
        };
        let layers = layers.ok_or_else(|| self.bad("layers_to_transform", "is neither a layer nor a list of layers"))?;
        // PEFT takes an empty list for no restriction.
        Ok((!layers.is_empty()).then(|| layers.into_iter().collect()))
    }
}
