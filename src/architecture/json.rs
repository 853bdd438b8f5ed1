//! `config.json` of Hugging Face's transformers as an [`Architecture`].
//!
//! Which keys a family has is a list ([`Family::keys`]) beside that of all families here. A key in neither could change the numbers
//! without graftling's knowing: it is refused by name, unless it is off (null, false, empty).

use serde_json::{Map, Value, json};

use super::json_keys::{HARMLESS, READ};
use super::rope::{longrope_attention_factor, yarn_attention_factor};
use super::{
    Activation, Architecture, FAMILIES, Family, Layer, Norms, QueryKeyNorm, Rope, RopeScaling, WRONG_CONFIG,
    unsupported_architecture,
};
use crate::{Error, Result};

impl Architecture {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming the key if the text is not JSON, the architecture is not one of [`FAMILIES`], a value is missing, of the
    /// wrong kind, or impossible, or a key may change the numbers in a way that graftling does not know.
    pub fn from_json_str(text: &str) -> Result<Self> {
        from_json_at("config.json", text)
    }

    /// As [`Architecture::from_json_str`], for a text that comes from `place`: the path of the file, for messages.
    ///
    /// # Errors
    /// As [`Architecture::from_json_str`].
    pub fn from_json_at(place: &str, text: &str) -> Result<Self> {
        from_json_at(place, text)
    }
}

fn from_json_at(place: &str, text: &str) -> Result<Architecture> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        Error::bad_input(place, format!("is not valid JSON: {error}"), "Download the model's config.json again.")
    })?;
    let Value::Object(map) = &value else {
        return Err(Error::bad_input(place, "is not a JSON object", "Download the model's config.json again."));
    };
    let whole = Keys { place, map, family: FAMILIES[0] };
    let (family, text_part) = whole.family()?;
    if !text_part {
        return Keys { family, ..whole }.architecture("");
    }
    // The configuration of the text model is a part of the whole's.
    let inner_place = format!("{place}: text_config");
    let Some(Value::Object(inner)) = map.get("text_config") else {
        return Err(whole.bad("text_config", "is missing, so the text model's sizes are unknown"));
    };
    let mut architecture = Keys { place: &inner_place, map: inner, family }.architecture("language_model.")?;
    for id in whole.token_ids("eos_token_id")? {
        if !architecture.eos_token_ids.contains(&id) {
            architecture.eos_token_ids.push(id);
        }
    }
    if let Some(tie) = whole.flag("tie_word_embeddings")? {
        architecture.tie_word_embeddings = tie;
    }
    Ok(architecture)
}

/// The keys of one JSON object, read with errors that name the key.
pub struct Keys<'a> {
    place: &'a str,
    map: &'a Map<String, Value>,
    family: &'static Family,
}

impl Keys<'_> {
    /// The family, and whether the config is of a model that has more than text.
    fn family(&self) -> Result<(&'static Family, bool)> {
        let named = match self.get("architectures") {
            Some(Value::Array(names)) => names.first().and_then(Value::as_str),
            _ => None,
        };
        let kind = self.get("model_type").and_then(Value::as_str);
        if named == Some("Gemma3ForConditionalGeneration") || (named.is_none() && kind == Some("gemma3")) {
            return Ok((&super::gemma3::FAMILY, true));
        }
        let found = match (named, kind) {
            (Some(name), _) => (name, FAMILIES.iter().find(|family| family.class == name)),
            (None, Some(kind)) => (kind, FAMILIES.iter().find(|family| family.model_type == kind)),
            (None, None) => return Err(self.bad("architectures", "is missing, so the model's architecture is unknown")),
        };
        found.1.map(|family| (*family, false)).ok_or_else(|| unsupported_architecture(found.0))
    }

    fn architecture(&self, text_path: &'static str) -> Result<Architecture> {
        self.refuse_what_is_not_known()?;
        let defaults = &self.family.defaults;
        let hidden_size = self.size("hidden_size")?;
        let size_or = |key: &str, default: Option<usize>| match default {
            Some(default) => Ok(self.optional_size(key)?.unwrap_or(default)),
            None => self.size(key),
        };
        let num_attention_heads = size_or("num_attention_heads", defaults.num_attention_heads)?;
        let head_dim = match self.optional_size("head_dim")?.or(defaults.head_dim) {
            Some(head_dim) => head_dim,
            None if num_attention_heads > 0 && hidden_size.is_multiple_of(num_attention_heads) => {
                hidden_size / num_attention_heads
            }
            None => {
                let problem = format!("hidden_size {hidden_size} is not a multiple of num_attention_heads {num_attention_heads}");
                return Err(self.bad("hidden_size", problem));
            }
        };
        let mut architecture = Architecture {
            class: self.family.class,
            vocab_size: size_or("vocab_size", defaults.vocab_size)?,
            hidden_size,
            intermediate_size: self.size("intermediate_size")?,
            num_hidden_layers: self.size("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: match self.map.get("num_key_value_heads") {
                Some(Value::Null) => num_attention_heads,
                Some(_) => self.size("num_key_value_heads")?,
                None => defaults.num_key_value_heads.unwrap_or(num_attention_heads),
            },
            head_dim,
            rms_norm_eps: self.number_or("rms_norm_eps", defaults.rms_norm_eps)?,
            max_position_embeddings: self.optional_size("max_position_embeddings")?.unwrap_or(defaults.max_position_embeddings),
            tie_word_embeddings: self.flag("tie_word_embeddings")?.unwrap_or(defaults.tie_word_embeddings),
            bos_token_id: self.token_ids("bos_token_id")?.first().copied(),
            eos_token_ids: self.token_ids("eos_token_id")?,
            text_path,
            ..Architecture::plain(self.family)
        };
        architecture.attention_scale = 1.0 / (head_dim as f64).sqrt();
        architecture.check_sizes(self.place)?;
        architecture.layers = vec![Layer { window: None, rope: Some(0) }; architecture.num_hidden_layers];
        (self.family.from_json)(self, &mut architecture)?;
        if architecture.experts.is_some() {
            architecture.router_aux_loss_coef = self.router_aux_loss_coef()?;
        }
        architecture.check(self.place)?;
        Ok(architecture)
    }

    fn refuse_what_is_not_known(&self) -> Result<()> {
        let known = |key: &str| {
            READ.contains(&key)
                || HARMLESS.contains(&key)
                || self.family.keys.contains(&key)
                || key.starts_with('_')
                || key.starts_with("unsloth")
        };
        let off = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            _ => false,
        };
        if let Some((key, value)) = self.map.iter().find(|(key, value)| !known(key) && !off(value)) {
            let value = value.to_string();
            let value = if value.len() > 60 { "set".to_owned() } else { value };
            return Err(Error::bad_input(
                format!("{}: key `{key}`", self.place),
                format!("is {value}, and graftling does not know what it does in a {}", self.family.class),
                "If it changes nothing that the model computes (a remark, say), delete it from config.json; else use another model.",
            ));
        }
        Ok(())
    }

    /// An error about the value of a key.
    pub fn bad(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::bad_input(format!("{}: key `{key}`", self.place), problem, WRONG_CONFIG)
    }

    /// The value of a key, where null is the same as absent.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.bad(key, "is missing"))
    }

    /// A whole number.
    pub fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let read = |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok());
        self.get(key).map(|value| read(value).ok_or_else(|| self.bad(key, format!("is {value}, not a whole number")))).transpose()
    }

    /// As [`Keys::optional_size`], but a key that is not there has a value that null has not.
    pub fn size_unless_null(&self, key: &str, default: usize) -> Result<Option<usize>> {
        if self.map.contains_key(key) { self.optional_size(key) } else { Ok(Some(default)) }
    }

    /// A number.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key).map(|value| value.as_f64().ok_or_else(|| self.bad(key, format!("is {value}, not a number")))).transpose()
    }

    /// A number, or what stands for it.
    pub fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.optional_number(key)?.unwrap_or(default))
    }

    /// As [`Keys::optional_number`], but a key that is not there has a value that null has not.
    pub fn number_unless_null(&self, key: &str, default: Option<f64>) -> Result<Option<f64>> {
        if self.map.contains_key(key) { self.optional_number(key) } else { Ok(default) }
    }

    /// True or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key)
            .map(|value| value.as_bool().ok_or_else(|| self.bad(key, format!("is {value}, not true or false"))))
            .transpose()
    }

    /// The coefficient of the load balancing loss, which transformers adds where the router's logits are an output.
    fn router_aux_loss_coef(&self) -> Result<Option<f64>> {
        let key = "router_aux_loss_coef";
        if !self.is_on("output_router_logits")? {
            return Ok(None);
        }
        match self.number_or(key, ROUTER_AUX_LOSS_COEF)? {
            0.0 => Ok(None),
            coefficient if coefficient.is_finite() && coefficient > 0.0 => Ok(Some(coefficient)),
            other => Err(self.bad(key, format!("is {other}, and cannot be below 0"))),
        }
    }

    /// A flag that is off unless it is on.
    pub fn is_on(&self, key: &str) -> Result<bool> {
        Ok(self.flag(key)?.unwrap_or(false))
    }

    /// One id, a list of ids, or nothing.
    fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        token_ids(self.map.get(key)).ok_or_else(|| self.bad(key, "is neither a token id nor a list of token ids"))
    }

    /// Refuses another activation than this.
    pub fn expect_activation(&self, key: &str, expected: &[&str]) -> Result<()> {
        match self.get(key) {
            Some(activation) if !expected.iter().any(|name| activation == name) => {
                Err(self.bad(key, format!("is {activation}, but graftling has only {:?} in this family", expected[0])))
            }
            _ => Ok(()),
        }
    }

    /// Of each layer whether it has a sliding window, where the config has `layer_types`.
    pub fn sliding_layers(&self, num_layers: usize) -> Result<Option<Vec<bool>>> {
        let Some(value) = self.get("layer_types") else { return Ok(None) };
        let Value::Array(types) = value else { return Err(self.bad("layer_types", "is not a list")) };
        if types.len() != num_layers {
            return Err(self.bad("layer_types", format!("has {} entries for {num_layers} layers", types.len())));
        }
        let sliding = types.iter().map(|kind| match kind.as_str() {
            Some("full_attention") => Ok(false),
            Some("sliding_attention") => Ok(true),
            _ => Err(self.bad("layer_types", format!("has {kind}, a kind of layer that graftling does not compute"))),
        });
        sliding.collect::<Result<_>>().map(Some)
    }

    /// The rotation of a model that has one for all layers and rotates whole heads.
    pub fn rotate_whole_heads(&self, model: &mut Architecture) -> Result<()> {
        let rope = self.rope(model)?;
        if rope.dim != model.head_dim {
            let problem = format!("leaves a part of each head as it is, which no {} of transformers does", model.class);
            return Err(self.bad("partial_rotary_factor", problem));
        }
        model.ropes = vec![rope];
        Ok(())
    }

    /// The rotation as transformers 5 reads it: `rope_scaling`, where it says anything, stands for all of `rope_parameters`; what is within
    /// comes before `rope_theta` and `partial_rotary_factor` beside it.
    pub fn rope(&self, sizes: &Architecture) -> Result<Rope> {
        let given = ["rope_scaling", "rope_parameters"].into_iter().find_map(|key| {
            let value = self.get(key)?;
            (value.as_object().is_none_or(|map| !map.is_empty())).then_some((key, value))
        });
        let theta = self.number_or("rope_theta", self.family.defaults.rope_theta)?;
        let Some((key, value)) = given else { return self.rope_of(&Map::new(), "rope_parameters", theta, sizes) };
        let Value::Object(map) = value else { return Err(self.bad(key, "is not an object")) };
        self.rope_of(map, key, theta, sizes)
    }

    /// The rotation that `map`, the value of `key`, describes; `theta` where it does not say another.
    pub fn rope_of(&self, map: &Map<String, Value>, key: &str, theta: f64, sizes: &Architecture) -> Result<Rope> {
        let place = format!("{}: {key}", self.place);
        let keys = Keys { place: &place, map, family: self.family };
        let theta = keys.number_or("rope_theta", theta)?;
        let part = match keys.optional_number("partial_rotary_factor")? {
            Some(part) => part,
            None => self.number_or("partial_rotary_factor", 1.0)?,
        };
        if !(part > 0.0 && part <= 1.0) {
            return Err(self.bad("partial_rotary_factor", format!("is {part}, but must be more than 0 and at most 1")));
        }
        let dim = (sizes.head_dim as f64 * part) as usize;
        let kind = match ["rope_type", "type"].into_iter().find_map(|key| keys.get(key)) {
            Some(kind) => kind.as_str().ok_or_else(|| keys.bad("rope_type", format!("is {kind}, not a name")))?,
            None if map.values().any(Value::is_object) => {
                return Err(self.bad(key, format!("has rotations by the kind of layer, which no {} has", sizes.class)));
            }
            None => "default",
        };
        Ok(Rope { theta, dim, scaling: self.scaling(&keys, kind, sizes)? })
    }

    fn scaling(&self, keys: &Keys, kind: &str, sizes: &Architecture) -> Result<RopeScaling> {
        let factor = || keys.optional_number("factor")?.ok_or_else(|| keys.bad("factor", "is missing"));
        // A key of the model itself comes before one of the scaling.
        let key = "original_max_position_embeddings";
        let of_model = self.optional_size(key)?.or(self.family.defaults.original_max_position_embeddings);
        let original = match of_model {
            Some(original) => original,
            None => keys.optional_size(key)?.unwrap_or(sizes.max_position_embeddings),
        };
        let factors = |key: &str| {
            let wrong = || keys.bad(key, "is missing or not a list of numbers");
            let list = keys.get(key).and_then(Value::as_array).ok_or_else(wrong)?;
            list.iter().map(|value| value.as_f64().ok_or_else(wrong)).collect::<Result<Vec<f64>>>()
        };
        // Early Phi-3 configs call LongRoPE by other names.
        let kind = if kind == "su" || (kind == "yarn" && keys.get("short_factor").is_some()) { "longrope" } else { kind };
        Ok(match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: factor()? },
            "dynamic" => {
                RopeScaling::Dynamic { factor: factor()?, original_max_position_embeddings: sizes.max_position_embeddings }
            }
            "llama3" => {
                let number = |key: &str| keys.optional_number(key)?.ok_or_else(|| keys.bad(key, "is missing"));
                RopeScaling::Llama3 {
                    factor: factor()?,
                    low_freq_factor: number("low_freq_factor")?,
                    high_freq_factor: number("high_freq_factor")?,
                    original_max_position_embeddings: original,
                }
            }
            "yarn" => {
                let factor = factor()?;
                let scale = |key: &str| keys.optional_number(key).map(|number| number.filter(|&number| number != 0.0));
                let (mscale, mscale_all) = (scale("mscale")?, scale("mscale_all_dim")?);
                let attention_factor = match (keys.optional_number("attention_factor")?, mscale, mscale_all) {
                    (Some(given), ..) => given,
                    (None, Some(m), Some(all)) => yarn_attention_factor(factor, m) / yarn_attention_factor(factor, all),
                    _ => yarn_attention_factor(factor, 1.0),
                };
                RopeScaling::Yarn {
                    factor,
                    attention_factor,
                    beta_fast: scale("beta_fast")?.unwrap_or(32.0),
                    beta_slow: scale("beta_slow")?.unwrap_or(1.0),
                    truncate: keys.flag("truncate")?.unwrap_or(true),
                    original_max_position_embeddings: original,
                }
            }
            "longrope" => {
                let stretch = match keys.optional_number("factor")? {
                    Some(factor) => factor,
                    None => sizes.max_position_embeddings as f64 / original.max(1) as f64,
                };
                let attention_factor = match keys.optional_number("attention_factor")? {
                    Some(given) => given,
                    None => longrope_attention_factor(stretch, original),
                };
                RopeScaling::LongRope {
                    short: factors("short_factor")?,
                    long: factors("long_factor")?,
                    attention_factor,
                    original_max_position_embeddings: original,
                }
            }
            other => RopeScaling::Unsupported(other.to_owned()),
        })
    }
}

impl Architecture {
    /// The `config.json` of this model. Whether it says all of it is for [`Architecture::differs`] to find, from what is read back.
    pub fn to_json(&self) -> Value {
        let family = self.family();
        let ends = match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [id] => json!(id),
            ids => json!(ids),
        };
        let mut config = json!({
            "architectures": [family.class],
            "model_type": family.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": ends,
        });
        let Some(map) = config.as_object_mut() else { return config };
        if let Some(coefficient) = self.router_aux_loss_coef {
            map.insert("output_router_logits".to_owned(), json!(true));
            map.insert("router_aux_loss_coef".to_owned(), json!(coefficient));
        }
        if let Some(rope) = self.ropes.first() {
            map.insert("rope_theta".to_owned(), json!(rope.theta));
            map.insert("rope_scaling".to_owned(), rope.scaling_json());
            if rope.dim != self.head_dim {
                map.insert("partial_rotary_factor".to_owned(), json!(rope.dim as f64 / self.head_dim as f64));
            }
            if let RopeScaling::LongRope { original_max_position_embeddings, .. } = rope.scaling {
                map.insert("original_max_position_embeddings".to_owned(), json!(original_max_position_embeddings));
            }
        }
        (family.to_json)(self, map);
        config
    }

    /// `layer_types`: which layers have a window.
    pub(super) fn layer_types(&self) -> Value {
        let kind = |layer: &Layer| if layer.window.is_some() { "sliding_attention" } else { "full_attention" };
        self.layers.iter().map(kind).collect()
    }
}

impl Rope {
    /// `rope_scaling` of a config; null where there is none, or none that a config can say.
    fn scaling_json(&self) -> Value {
        match &self.scaling {
            RopeScaling::None | RopeScaling::Factors(_) | RopeScaling::Unsupported(_) => Value::Null,
            RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            RopeScaling::Dynamic { factor, .. } => json!({ "rope_type": "dynamic", "factor": factor }),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor, "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
            RopeScaling::Yarn { factor, attention_factor, beta_fast, beta_slow, truncate, original_max_position_embeddings } => {
                json!({
                    "rope_type": "yarn", "factor": factor, "attention_factor": attention_factor, "beta_fast": beta_fast,
                    "beta_slow": beta_slow, "truncate": truncate,
                    "original_max_position_embeddings": original_max_position_embeddings,
                })
            }
            RopeScaling::LongRope { short, long, attention_factor, .. } => json!({
                "rope_type": "longrope", "short_factor": short, "long_factor": long, "attention_factor": attention_factor,
            }),
        }
    }
}

impl Architecture {
    /// The features of a Llama without biases, and no sizes.
    pub(super) fn plain(family: &Family) -> Self {
        Self {
            class: family.class,
            vocab_size: 0,
            hidden_size: 0,
            intermediate_size: 0,
            num_hidden_layers: 0,
            num_attention_heads: 0,
            num_key_value_heads: 0,
            head_dim: 0,
            rms_norm_eps: family.defaults.rms_norm_eps,
            max_position_embeddings: family.defaults.max_position_embeddings,
            tie_word_embeddings: family.defaults.tie_word_embeddings,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            norms: Norms::Before,
            norm_adds_one: false,
            query_key_norm: QueryKeyNorm::None,
            fused: false,
            query_key_value_bias: false,
            attention_output_bias: false,
            attention_sinks: false,
            mlp_bias: false,
            experts: None,
            router_aux_loss_coef: None,
            activation: Activation::Silu,
            attention_scale: 1.0,
            attention_softcap: None,
            final_softcap: None,
            embedding_multiplier: 1.0,
            residual_multiplier: 1.0,
            logits_scaling: 1.0,
            ropes: Vec::new(),
            layers: Vec::new(),
            text_path: "",
            gguf_interleaved: family.interleaved,
        }
    }
}

/// What transformers takes in all families with experts.
const ROUTER_AUX_LOSS_COEF: f64 = 0.001;

/// Token ids from a JSON value that is null, an id or a list of ids; `None` if it is something else.
pub(crate) fn token_ids(value: Option<&Value>) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(ids)) => ids.iter().map(id).collect(),
        Some(value) => id(value).map(|id| vec![id]),
    }
}
