//! `adapter_config.json`: which of its keys count, and what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::{AdapterConfig, Chosen, EMBEDDING, Modules, Patterns, TrainedBiases, fused, means_routers, names};
use crate::formats::adapter_folder::{Rule, Settings, read_settings};
use crate::{Error, Result};

/// The keys of `LoraConfig` in PEFT 0.21, with those of earlier versions.
const KEYS: [(&str, Rule); 47] = [
    ("peft_type", Rule::Read),
    ("r", Rule::Read),
    ("lora_alpha", Rule::Read),
    ("lora_dropout", Rule::Read),
    ("use_rslora", Rule::Read),
    ("target_modules", Rule::Read),
    ("layers_to_transform", Rule::Read),
    ("layers_pattern", Rule::Read),
    ("exclude_modules", Rule::Read),
    ("bias", Rule::Read),
    ("init_lora_weights", Rule::Read),
    ("use_dora", Rule::Read),
    ("lora_bias", Rule::Read),
    ("rank_pattern", Rule::Read),
    ("alpha_pattern", Rule::Read),
    ("modules_to_save", Rule::Read),
    ("trainable_token_indices", Rule::Read),
    ("ensure_weight_tying", Rule::Read),
    ("base_model_name_or_path", Rule::Read),
    // Who made it, from what, and for what.
    ("peft_version", Rule::Harmless),
    ("auto_mapping", Rule::Harmless),
    ("task_type", Rule::Harmless),
    ("revision", Rule::Harmless),
    ("inference_mode", Rule::Harmless),
    // How PEFT runs it.
    ("runtime_config", Rule::Harmless),
    ("megatron_config", Rule::Harmless),
    ("megatron_core", Rule::Harmless),
    ("merge_weights", Rule::Harmless),
    // PEFT turns it off for linear layers.
    ("fan_in_fan_out", Rule::Harmless),
    // How the start is made; init_lora_weights says whether it is.
    ("eva_config", Rule::Harmless),
    ("corda_config", Rule::Harmless),
    ("lora_ga_config", Rule::Harmless),
    ("loftq_config", Rule::Harmless),
    // Only with an option that must be off.
    ("qalora_group_size", Rule::Harmless),
    ("use_qalora", Rule::Off),
    ("use_bdlora", Rule::Off),
    ("layer_replication", Rule::Off),
    ("target_parameters", Rule::Read),
    ("alora_invocation_tokens", Rule::Off),
    ("arrow_config", Rule::Off),
    ("kasa_config", Rule::Off),
    ("velora_config", Rule::Off),
    ("monteclora_config", Rule::Off),
    ("enable_lora", Rule::Off),
    ("use_kasa", Rule::Off),
    ("use_velora", Rule::Off),
    ("use_monteclora", Rule::Off),
];

/// `adapter_config.json`, read with errors that name the key.
pub(super) struct ConfigFile(Settings);

impl ConfigFile {
    pub fn read(path: &Path) -> Result<Self> {
        let proposal = "graftling reads LoRA and DoRA adapters: train or convert the adapter without this option.";
        Ok(Self(Settings { place: path.display().to_string(), map: read_settings(path)?, proposal }))
    }

    fn bad(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        self.0.bad(key, problem)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    pub fn into_config(self) -> Result<AdapterConfig> {
        match self.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            Some(other) => return Err(self.bad("peft_type", format!("is {other}; graftling reads LORA only"))),
            None => return Err(self.bad("peft_type", "is missing; for graftling it must be LORA")),
        }
        self.0.refuse_what_changes_the_numbers(&KEYS, false)?;
        let [use_dora, lora_bias] = [self.0.switch("use_dora", false)?, self.0.switch("lora_bias", false)?];
        if use_dora && lora_bias {
            return Err(self.bad("lora_bias", "is true with use_dora, which PEFT refuses as well"));
        }
        self.check_start()?;
        let r = self.get("r").and_then(rank).ok_or_else(|| self.bad("r", "is missing or no possible rank"))?;
        Ok(AdapterConfig {
            r,
            lora_alpha: self.0.number("lora_alpha", 8.0)?,
            lora_dropout: self.0.dropout("lora_dropout")?,
            target_modules: Vec::new(),
            layers_to_transform: None,
            only: None,
            rank_pattern: self.patterns("rank_pattern", "a possible rank", rank)?,
            alpha_pattern: self
                .patterns("alpha_pattern", "a number", |value| value.as_f64().filter(|alpha| alpha.is_finite()))?,
            base_model: self.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned),
            text_path: "",
            experts: 0,
            parameters: BTreeSet::new(),
            use_rslora: self.0.switch("use_rslora", false)?,
            use_dora,
            modules_to_save: self.whole_modules()?,
            ensure_weight_tying: self.0.switch("ensure_weight_tying", false)?,
            whole_rows: BTreeMap::new(),
            token_indices: self.token_indices()?,
            bias: self.bias()?,
            lora_bias,
            chosen: self.chosen()?,
            taken_out: Vec::new(),
        })
    }

    /// Which of the model's biases are trained.
    fn bias(&self) -> Result<TrainedBiases> {
        let Some(value) = self.get("bias") else { return Ok(TrainedBiases::None) };
        let known = TrainedBiases::ALL.into_iter().find(|bias| value.as_str() == Some(bias.name()));
        known.ok_or_else(|| self.bad("bias", format!("is {value}; it can be none, all or lora_only")))
    }

    /// What chooses modules, and what PEFT refuses of it.
    fn chosen(&self) -> Result<Chosen> {
        let (parameters, routers) = self.parameters()?;
        let has_parameters = !parameters.is_empty() || !routers.is_empty();
        let mut targets = match self.modules("target_modules")? {
            Some(targets) => targets,
            None if has_parameters => Modules::Listed(Vec::new()),
            None => return Err(self.bad("target_modules", NO_MODULES)),
        };
        if let Modules::Listed(names) = &mut targets {
            names.extend(routers);
        } else if has_parameters {
            return Err(self
                .bad("target_parameters", "stands beside target_modules that are a pattern; graftling reads it beside a list"));
        }
        let excluded = self.modules("exclude_modules")?.filter(|modules| *modules != Modules::Pattern(String::new()));
        if self.get("layers_to_transform").is_some() && matches!(targets, Modules::Pattern(_)) {
            return Err(
                self.bad("layers_to_transform", "stands beside target_modules that are a pattern, which PEFT refuses as well")
            );
        }
        let before_layers = match self.modules("layers_pattern")? {
            None => Vec::new(),
            Some(Modules::Pattern(pattern)) if pattern.is_empty() => Vec::new(),
            Some(Modules::Pattern(pattern)) => vec![pattern],
            Some(Modules::Listed(patterns)) => patterns,
        };
        if !before_layers.is_empty() && self.get("layers_to_transform").is_none() {
            return Err(self.bad("layers_pattern", "is there without layers_to_transform, which PEFT refuses as well"));
        }
        Ok(Chosen { targets: Some(targets), excluded, layers: self.layers()?, before_layers, parameters })
    }

    /// Which of the experts' parameters are adapted, and which routers.
    fn parameters(&self) -> Result<(Vec<String>, Vec<String>)> {
        let key = "target_parameters";
        let names = match self.modules(key)? {
            None => Vec::new(),
            Some(Modules::Listed(names)) => names,
            Some(Modules::Pattern(pattern)) => vec![pattern],
        };
        let (of_routers, of_experts): (Vec<String>, Vec<String>) =
            names.into_iter().partition(|name| fused::router(name).is_some());
        if let Some(other) = of_experts.iter().find(|name| !fused::is_name(name)) {
            let problem =
                format!("names {other}; graftling reads gate_up_proj and down_proj of experts, and the weights of routers, only");
            return Err(self.bad(key, problem));
        }
        Ok((of_experts, of_routers.iter().filter_map(|name| fused::router(name)).map(str::to_owned).collect()))
    }

    /// A list of module names, or a pattern; `None` where there is nothing.
    fn modules(&self, key: &str) -> Result<Option<Modules>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(pattern)) => Ok(Some(Modules::Pattern(pattern.clone()))),
            Some(Value::Array(names)) if names.is_empty() => Ok(None),
            Some(Value::Array(names)) => {
                let name = |name: &Value| name.as_str().map(str::to_owned).ok_or_else(|| self.bad(key, NO_MODULES));
                Ok(Some(Modules::Listed(names.iter().map(name).collect::<Result<_>>()?)))
            }
            Some(_) => Err(self.bad(key, NO_MODULES)),
        }
    }

    /// Modules of which the file has the whole matrix.
    fn whole_modules(&self) -> Result<Vec<String>> {
        let key = "modules_to_save";
        let Some(modules) = self.modules(key)? else { return Ok(Vec::new()) };
        let Modules::Listed(names) = modules else { return Err(self.bad(key, "is no list of module names")) };
        let is_of_vocabulary = |name: &str| names::VOCABULARY.iter().any(|(module, _)| *module == name);
        // A norm's or a router's name means every module that ends with it, and so stays whole.
        let own_name = |name: &String| match name.rsplit('.').next() {
            Some(own) if is_of_vocabulary(own) => own.to_owned(),
            _ => name.clone(),
        };
        let own: BTreeSet<String> = names.iter().map(own_name).collect();
        let is_known = |name: &str| is_of_vocabulary(name) || name.ends_with("norm") || means_routers(name);
        match own.iter().find(|name| !is_known(name)) {
            Some(other) => {
                Err(self
                    .bad(key, format!("lists {other}; graftling reads embed_tokens, lm_head, norms and routers of experts only")))
            }
            None => Ok(own.into_iter().collect()),
        }
    }

    /// A list of tokens, which means those of the embedding, or one for each module. In the order of the file's rows.
    fn token_indices(&self) -> Result<BTreeMap<String, Vec<u32>>> {
        let key = "trainable_token_indices";
        let token = |token: &Value| token.as_u64().and_then(|token| u32::try_from(token).ok());
        let tokens = |value: &Value| {
            let tokens: Option<Vec<u32>> = value.as_array().and_then(|tokens| tokens.iter().map(token).collect());
            tokens.ok_or_else(|| self.bad(key, format!("has {value}, which is no list of tokens")))
        };
        let entries = match self.get(key) {
            None => Vec::new(),
            Some(Value::Object(modules)) => {
                let entry = |(module, value): (&String, &Value)| {
                    let own_name = module.rsplit('.').next().unwrap_or(module);
                    match names::VOCABULARY.iter().any(|(known, _)| *known == own_name) {
                        true => Ok((own_name.to_owned(), tokens(value)?)),
                        false => Err(self.bad(key, format!("names {module}; graftling reads embed_tokens and lm_head only"))),
                    }
                };
                modules.iter().map(entry).collect::<Result<_>>()?
            }
            Some(list) => vec![(EMBEDDING.to_owned(), tokens(list)?)],
        };
        let entries: BTreeMap<_, _> = entries.into_iter().filter(|(_, tokens)| !tokens.is_empty()).collect();
        let saved = self.whole_modules()?;
        match entries.keys().find(|module| saved.contains(module)) {
            Some(module) => Err(self.bad(key, format!("names {module}, which modules_to_save lists as well"))),
            None => Ok(entries),
        }
    }

    /// An object of patterns and values.
    fn patterns<T>(&self, key: &str, what: &str, value_of: impl Fn(&Value) -> Option<T>) -> Result<Patterns<T>> {
        let entries = match self.get(key) {
            None => Vec::new(),
            Some(Value::Object(entries)) => {
                let entry = |(pattern, value): (&String, &Value)| {
                    let problem = || self.bad(key, format!("has {value} for `{pattern}`, which is not {what}"));
                    Ok((pattern.clone(), value_of(value).ok_or_else(problem)?))
                };
                entries.iter().map(entry).collect::<Result<_>>()?
            }
            Some(other) => return Err(self.bad(key, format!("is {other}, not an object of names and values"))),
        };
        Patterns::new(entries).map_err(|problem| self.bad(key, problem))
    }

    /// Some starts are made by taking the adapter's first product out of the base's weights, and PEFT does so again whenever it loads
    /// such an adapter. The tensors alone would then be added to a base that is not theirs.
    fn check_start(&self) -> Result<()> {
        match self.get("init_lora_weights") {
            None | Some(Value::Bool(_)) => Ok(()),
            Some(Value::String(start)) if matches!(start.as_str(), "gaussian" | "eva" | "orthogonal") => Ok(()),
            Some(start) => {
                let place = format!("{}: key `init_lora_weights`", self.0.place);
                let problem = format!(
                    "is {start}: this start changes the base model's weights, so the tensors do not belong to the base as it is"
                );
                let proposal = "Convert it with PEFT to a plain LoRA of the unchanged base: save_pretrained(DIR, \
                                path_initial_model_for_weight_conversion=FOLDER_OF_THE_INITIAL_ADAPTER).";
                Err(Error::bad_input(place, problem, proposal))
            }
        }
    }

    fn layers(&self) -> Result<Option<BTreeSet<usize>>> {
        let layer = |value: &Value| value.as_u64().and_then(|layer| usize::try_from(layer).ok());
        let layers: Option<BTreeSet<usize>> = match self.get("layers_to_transform") {
            None => return Ok(None),
            Some(Value::Array(layers)) => layers.iter().map(layer).collect(),
            Some(value) => layer(value).map(|layer| BTreeSet::from([layer])),
        };
        let layers = layers.ok_or_else(|| self.bad("layers_to_transform", "is neither a layer nor a list of layers"))?;
        // PEFT takes an empty list for no restriction.
        Ok((!layers.is_empty()).then_some(layers))
    }
}

const NO_MODULES: &str = "is neither a pattern nor a list of module names";

/// A rank, if it is a possible one.
fn rank(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|r| usize::try_from(r).ok()).filter(|&r| r > 0 && r <= 1 << 16)
}
