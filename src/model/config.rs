//! The numbers that define a model, as `config.json` of Hugging Face's transformers holds them.
//!
//! Keys and their defaults are those of transformers' `LlamaConfig`, `MistralConfig`, `Phi3Config` and `Qwen2Config`. RoPE is
//! read from both layouts: `rope_theta` with `rope_scaling` (transformers 4) and `rope_parameters` (transformers 5).
//! [`ModelConfig::check`] holds for every value of this type that a reader hands out, so that sizes can be multiplied without
//! fear. GGUF metadata becomes the same type in [`crate::formats::gguf`].

use std::{f64::consts::PI, path::Path};

use serde_json::{Map, Value};

use crate::formats::open;
use crate::{Error, Result};

/// The architectures that graftling trains.
pub const TRAINABLE: &[&str] = &["LlamaForCausalLM"];

/// The architectures whose parameters `graftling inspect` can count; the trainable ones are among them.
pub const KNOWN: &[&str] = &["LlamaForCausalLM", "MistralForCausalLM", "Phi3ForCausalLM", "Qwen2ForCausalLM"];

/// Largest value of a dimension (vocabulary, features) that is believed. A model of [`LARGEST_DEPTH`] layers with seven
/// matrices of such dimensions has less than 2^59 parameters, so that counts and bytes fit a `u64`.
const LARGEST_DIMENSION: usize = 1 << 22;
/// Largest number of layers that is believed.
const LARGEST_DEPTH: usize = 4096;

/// The shape and constants of a decoder-only transformer. Field names are Hugging Face's.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The transformers class: `LlamaForCausalLM`.
    pub architecture: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Divides `num_attention_heads`; fewer than those is grouped-query attention.
    pub num_key_value_heads: usize,
    /// Features of one head; even.
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    pub max_position_embeddings: usize,
    /// Whether the output matrix is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Llama: biases on q, k, v and o. Qwen2: always, on q, k and v.
    pub attention_bias: bool,
    pub mlp_bias: bool,
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
}

/// How RoPE's frequencies are stretched for longer contexts (transformers' `rope_type`).
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// The plain frequencies `rope_theta^(-2i / head_dim)`.
    None,
    /// All frequencies divided by `factor`.
    Linear { factor: f64 },
    /// Llama 3.1's rule: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_max_position_embeddings: usize },
    /// Frequency i divided by the i-th of `head_dim / 2` factors (the tensor `rope_freqs.weight` of a GGUF file).
    Factors(Vec<f64>),
    /// A rule that graftling can name but not compute, such as `yarn` or `longrope`.
    Unsupported(String),
}

impl ModelConfig {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming the key if the text is not JSON, the architecture is not in [`KNOWN`], or a value is
    /// missing, of the wrong kind, or impossible.
    pub fn from_json_str(text: &str) -> Result<Self> {
        Self::from_json_at("config.json", text)
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// As [`ModelConfig::from_json_str`], or if the file cannot be read.
    pub fn from_json_file(path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        let text = open::read_text(path, "Give a model folder that has a readable config.json.")?;
        Self::from_json_at(&place, &text)
    }

    fn from_json_at(place: &str, text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(|error| {
            Error::bad_input(place, format!("is not valid JSON: {error}"), "Download the model's config.json again.")
        })?;
        let Value::Object(map) = &value else {
            return Err(Error::bad_input(place, "is not a JSON object", "Download the model's config.json again."));
        };
        let keys = Keys { place, map };
        let architecture = keys.architecture()?;
        let llama = architecture == "LlamaForCausalLM";
        if llama {
            keys.refuse_what_changes_the_numbers()?;
        }
        let hidden_size = keys.size("hidden_size")?;
        let num_attention_heads = keys.size("num_attention_heads")?;
        let head_dim = match keys.optional_size("head_dim")? {
            Some(head_dim) => head_dim,
            None if num_attention_heads > 0 && hidden_size.is_multiple_of(num_attention_heads) => {
                hidden_size / num_attention_heads
            }
            None => {
                let problem = format!("hidden_size {hidden_size} is not a multiple of num_attention_heads {num_attention_heads}");
                return Err(keys.bad("hidden_size", problem));
            }
        };
        let rope = keys.rope()?;
        let config = Self {
            vocab_size: keys.size("vocab_size")?,
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_hidden_layers: keys.size("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: keys.optional_size("num_key_value_heads")?.unwrap_or(num_attention_heads),
            head_dim,
            rms_norm_eps: keys.optional_number("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta: rope.0,
            rope_scaling: rope.1,
            max_position_embeddings: keys.optional_size("max_position_embeddings")?.unwrap_or(2048),
            tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: architecture == "Qwen2ForCausalLM" || keys.flag("attention_bias")?.unwrap_or(false),
            mlp_bias: keys.flag("mlp_bias")?.unwrap_or(false),
            bos_token_id: keys.token_ids("bos_token_id")?.first().copied(),
            eos_token_ids: keys.token_ids("eos_token_id")?,
            architecture,
        };
        config.check(place)?;
        Ok(config)
    }

    /// Checks that the sizes are possible and fit together, whatever file they come from.
    ///
    /// # Errors
    /// [`Error::BadInput`] at `place` naming the first value that cannot be.
    pub fn check(&self, place: &str) -> Result<()> {
        let bad = |key: &str, problem: String| Err(Error::bad_input(format!("{place}: {key}"), problem, WRONG_CONFIG));
        for (key, value, largest) in [
            ("vocab_size", self.vocab_size, LARGEST_DIMENSION),
            ("hidden_size", self.hidden_size, LARGEST_DIMENSION),
            ("intermediate_size", self.intermediate_size, LARGEST_DIMENSION),
            ("num_hidden_layers", self.num_hidden_layers, LARGEST_DEPTH),
            ("num_attention_heads", self.num_attention_heads, LARGEST_DIMENSION),
            ("num_key_value_heads", self.num_key_value_heads, LARGEST_DIMENSION),
            ("head_dim", self.head_dim, LARGEST_DIMENSION),
            ("max_position_embeddings", self.max_position_embeddings, u32::MAX as usize),
        ] {
            if value == 0 || value > largest {
                return bad(key, format!("is {value}, but must be from 1 to {largest}"));
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let heads = self.num_attention_heads;
            return bad(
                "num_key_value_heads",
                format!("is {}, which does not divide the {heads} heads", self.num_key_value_heads),
            );
        }
        if !self.head_dim.is_multiple_of(2) {
            return bad("head_dim", format!("is {}, but rotary embedding needs an even number", self.head_dim));
        }
        if self.num_attention_heads.saturating_mul(self.head_dim) > LARGEST_DIMENSION {
            return bad("head_dim", format!("is {} for {} heads, which is too large", self.head_dim, self.num_attention_heads));
        }
        for (key, value) in [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope_theta)] {
            if !(value.is_finite() && value > 0.0) {
                return bad(key, format!("is {value}, but must be positive"));
            }
        }
        self.rope_scaling.check(place, self.head_dim)
    }

    /// Whether graftling can train and run this model.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming the architecture (or the feature) and listing those that are supported.
    pub fn supported(&self) -> Result<()> {
        let place = format!("architecture {}", self.architecture);
        if !TRAINABLE.contains(&self.architecture.as_str()) {
            return Err(unsupported_architecture(&self.architecture));
        }
        if self.attention_bias || self.mlp_bias {
            let key = if self.attention_bias { "attention_bias" } else { "mlp_bias" };
            let problem = format!("{key} is true, and graftling has no biases in the projections of a block");
            return Err(Error::bad_input(place, problem, "Use a model without these biases: all models of Meta's Llama family."));
        }
        if let RopeScaling::Unsupported(kind) = &self.rope_scaling {
            let problem = format!("its rotary embedding is scaled by `{kind}`, which graftling does not compute");
            return Err(Error::bad_input(place, problem, "Use a model whose rope_scaling is absent, `linear` or `llama3`."));
        }
        Ok(())
    }

    /// RoPE's `head_dim / 2` frequencies in radians a position, after `rope_scaling`.
    ///
    /// # Errors
    /// [`Error::BadInput`] if the scaling is [`RopeScaling::Unsupported`].
    pub fn rope_inverse_frequencies(&self) -> Result<Vec<f64>> {
        let plain =
            (0..self.head_dim / 2).map(|i| self.rope_theta.powf(-2.0 * i as f64 / self.head_dim as f64)).collect::<Vec<_>>();
        Ok(match &self.rope_scaling {
            RopeScaling::None => plain,
            RopeScaling::Linear { factor } => plain.iter().map(|frequency| frequency / factor).collect(),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let context = *original_max_position_embeddings as f64;
                plain.iter().map(|f| f / llama3_divisor(*f, *factor, *low_freq_factor, *high_freq_factor, context)).collect()
            }
            RopeScaling::Factors(factors) => plain.iter().zip(factors).map(|(frequency, factor)| frequency / factor).collect(),
            RopeScaling::Unsupported(kind) => {
                let problem = format!("`{kind}` is a scaling that graftling does not compute");
                return Err(Error::bad_input("rope_scaling", problem, "Use a model whose scaling is `linear` or `llama3`."));
            }
        })
    }
}

/// What to do about a config.json with an impossible value.
const WRONG_CONFIG: &str = "Check that this is the config.json that belongs to the model; download it again if it was edited.";

/// The refusal of an architecture by name.
pub(crate) fn unsupported_architecture(architecture: &str) -> Error {
    Error::bad_input(
        format!("architecture {architecture}"),
        "is not supported",
        format!(
            "Supported for training: {} (SmolLM2, TinyLlama, Llama 2, 3, 3.1, 3.2). `graftling inspect` also counts: {}.",
            TRAINABLE.join(", "),
            KNOWN.iter().filter(|known| !TRAINABLE.contains(known)).copied().collect::<Vec<_>>().join(", ")
        ),
    )
}

/// By what Llama 3.1's rule divides a frequency (transformers `_compute_llama3_parameters`): 1 where the wavelength is short
/// against the original context, `factor` where it is long, and in between so that frequencies are interpolated linearly.
fn llama3_divisor(frequency: f64, factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_context: f64) -> f64 {
    let periods = original_context * frequency / (2.0 * PI);
    if periods < low_freq_factor {
        factor
    } else if periods > high_freq_factor {
        1.0
    } else {
        let smooth = (periods - low_freq_factor) / (high_freq_factor - low_freq_factor);
        1.0 / ((1.0 - smooth) / factor + smooth)
    }
}

impl RopeScaling {
    /// The scaling that divides frequency i by `factors[i]`, as a rule if it is Llama 3's with the constants of Meta's models
    /// (`low_freq_factor` 1, `high_freq_factor` 4, original context 8192): a GGUF file keeps the divisors in f32 and forgets the rule.
    pub fn from_factors(factors: &[f32], rope_theta: f64) -> Self {
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 * b.abs();
        if factors.iter().all(|&factor| factor == 1.0) {
            return Self::None;
        }
        let factor = shortest_decimal(factors.last().copied().unwrap_or(1.0));
        let head_dim = 2.0 * factors.len() as f64;
        let rule = |i: usize| llama3_divisor(rope_theta.powf(-2.0 * i as f64 / head_dim), factor, 1.0, 4.0, 8192.0);
        if factors.iter().enumerate().all(|(i, &value)| close(f64::from(value), rule(i))) {
            return Self::Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 8192 };
        }
        Self::Factors(factors.iter().map(|&factor| f64::from(factor)).collect())
    }

    fn check(&self, place: &str, head_dim: usize) -> Result<()> {
        let positive = |value: &f64| value.is_finite() && *value > 0.0;
        let possible = match self {
            Self::None | Self::Unsupported(_) => true,
            Self::Linear { factor } => positive(factor),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                [factor, low_freq_factor, high_freq_factor].into_iter().all(positive)
                    && low_freq_factor < high_freq_factor
                    && *original_max_position_embeddings > 0
            }
            Self::Factors(factors) => factors.len() == head_dim / 2 && factors.iter().all(positive),
        };
        if possible {
            return Ok(());
        }
        Err(Error::bad_input(format!("{place}: rope_scaling"), format!("{self:?} has impossible values"), WRONG_CONFIG))
    }
}

impl std::fmt::Display for RopeScaling {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Linear { factor } => write!(f, "linear by {factor}"),
            Self::Llama3 { factor, original_max_position_embeddings, .. } => {
                write!(f, "llama3 by {factor} beyond {original_max_position_embeddings} positions")
            }
            Self::Factors(_) => f.write_str("by a factor for each frequency"),
            Self::Unsupported(kind) => write!(f, "{kind}"),
        }
    }
}

/// The decimal number that an f32 was written from: GGUF keeps 1e-5 as the nearest f32, and 1e-5 was meant.
pub(crate) fn shortest_decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// The keys of one JSON object, read with errors that name the key.
struct Keys<'a> {
    place: &'a str,
    map: &'a Map<String, Value>,
}

impl Keys<'_> {
    fn bad(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::bad_input(format!("{}: key `{key}`", self.place), problem, WRONG_CONFIG)
    }

    /// The value of a key, where null is the same as absent.
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn architecture(&self) -> Result<String> {
        let named = match self.get("architectures") {
            Some(Value::Array(names)) => names.first().and_then(Value::as_str),
            _ => None,
        };
        let architecture = match (named, self.get("model_type").and_then(Value::as_str)) {
            (Some(name), _) => name,
            (None, Some("llama")) => "LlamaForCausalLM",
            (None, Some("mistral")) => "MistralForCausalLM",
            (None, Some("phi3")) => "Phi3ForCausalLM",
            (None, Some("qwen2")) => "Qwen2ForCausalLM",
            (None, Some(other)) => other,
            (None, None) => return Err(self.bad("architectures", "is missing, so the model's architecture is unknown")),
        };
        if !KNOWN.contains(&architecture) {
            return Err(unsupported_architecture(architecture));
        }
        Ok(architecture.to_owned())
    }

    /// Options of `LlamaConfig` that are in almost no model, and that would change its output if they were passed over.
    fn refuse_what_changes_the_numbers(&self) -> Result<()> {
        if let Some(activation) = self.get("hidden_act").filter(|value| value.as_str() != Some("silu")) {
            return Err(self.bad("hidden_act", format!("is {activation}, but graftling has only \"silu\"")));
        }
        if let Some(factor) = self.optional_number("partial_rotary_factor")?.filter(|&factor| factor != 1.0) {
            return Err(self.bad("partial_rotary_factor", format!("is {factor}, but graftling rotates whole heads only")));
        }
        if let Some(quantised) = self.get("quantization_config") {
            let method = quantised.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
            return Err(Error::bad_input(
                format!("{}: key `quantization_config`", self.place),
                format!("the weights are quantised by `{method}`, which graftling does not read"),
                "Use the original f32, f16 or bf16 weights, or a .gguf file in Q8_0, Q4_0 or Q4_1.",
            ));
        }
        Ok(())
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.bad(key, "is missing"))
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let read = |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok());
        self.get(key).map(|value| read(value).ok_or_else(|| self.bad(key, format!("is {value}, not a whole number")))).transpose()
    }

    fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key).map(|value| value.as_f64().ok_or_else(|| self.bad(key, format!("is {value}, not a number")))).transpose()
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key)
            .map(|value| value.as_bool().ok_or_else(|| self.bad(key, format!("is {value}, not true or false"))))
            .transpose()
    }

    /// One id, a list of ids, or nothing.
    fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        token_ids(self.map.get(key)).ok_or_else(|| self.bad(key, "is neither a token id nor a list of token ids"))
    }

    /// `rope_theta` and the scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4).
    fn rope(&self) -> Result<(f64, RopeScaling)> {
        let theta = self.optional_number("rope_theta")?;
        let (key, Some(parameters)) = ["rope_parameters", "rope_scaling"]
            .into_iter()
            .map(|key| (key, self.get(key)))
            .find(|(_, value)| value.is_some())
            .unwrap_or(("rope_scaling", None))
        else {
            return Ok((theta.unwrap_or(10_000.0), RopeScaling::None));
        };
        let Value::Object(map) = parameters else { return Err(self.bad(key, "is not an object")) };
        let place = format!("{}: {key}", self.place);
        let scaling = Keys { place: &place, map };
        let theta = theta.or(scaling.optional_number("rope_theta")?).unwrap_or(10_000.0);
        let kind =
            ["rope_type", "type"].into_iter().find_map(|key| scaling.get(key)).and_then(Value::as_str).unwrap_or("default");
        let number = |key: &str| scaling.optional_number(key)?.ok_or_else(|| scaling.bad(key, "is missing"));
        let rule = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: number("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: scaling.size("original_max_position_embeddings")?,
            },
            other => RopeScaling::Unsupported(other.to_owned()),
        };
        Ok((theta, rule))
    }
}

/// Token ids from a JSON value that is null, an id or a list of ids; `None` if it is something else.
pub(crate) fn token_ids(value: Option<&Value>) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(ids)) => ids.iter().map(id).collect(),
        Some(value) => id(value).map(|id| vec![id]),
    }
}
