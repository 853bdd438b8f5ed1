//! What a model is: a family is data.
//!
//! A config, Hugging Face's `config.json` ([`json`]) or the metadata of a GGUF file ([`gguf`]), becomes one [`Architecture`]: sizes, and the
//! features that the block builder understands. One file a family says what of them its models have, and where the files keep it; everything
//! else derives from the value: the linear layers ([`sites()`]), all tensors with their names in each format ([`parameters()`]), the graph.
//!
//! Keys, defaults and precedence are those of transformers 5. [`Architecture::check`] holds for every value of this type that a reader
//! hands out, so that sizes can be multiplied without fear.

pub mod experts;
mod gemma2;
mod gemma3;
pub mod gguf;
mod gpt_oss;
mod granite;
pub mod json;
mod json_keys;
pub mod known;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod override_rope;
mod parameters;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;
pub mod rope;
mod sites;
mod smollm3;

pub use experts::Experts;
pub use override_rope::RopeOverride;
pub use parameters::{
    EMBEDDING_TENSOR, GGML_NORMS, OUTPUT_TENSOR, Order, Parameter, is_a_router, is_of_a_layer, norm_modules, parameters,
    slice_name,
};
pub use rope::{DynamicRope, Rope, RopeScaling};
pub use sites::{Held, Part, Role, Site, layer_routers, layer_sites, linear_modules, routers, sites};

use serde_json::{Map, Value};

use crate::{Error, Result};

/// All families, in the order in which messages name them.
pub static FAMILIES: [&Family; 14] = [
    &llama::FAMILY,
    &mistral::FAMILY,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &gemma2::FAMILY,
    &gemma3::FAMILY,
    &phi3::FAMILY,
    &smollm3::FAMILY,
    &olmo2::FAMILY,
    &granite::FAMILY,
    &mixtral::FAMILY,
    &qwen2_moe::FAMILY,
    &qwen3_moe::FAMILY,
    &gpt_oss::FAMILY,
];

/// What sets a family apart: how its files say what they say.
pub struct Family {
    /// The transformers class: `LlamaForCausalLM`.
    pub class: &'static str,
    /// `model_type` of its config.json: `llama`.
    pub model_type: &'static str,
    /// `general.architecture` of its GGUF files; empty where they go by Llama's.
    pub ggml: &'static str,
    /// Models of it, for people.
    pub models: &'static str,
    /// Keys of config.json that [`Family::from_json`] reads, beside those that all families have.
    pub keys: &'static [&'static str],
    /// What transformers takes for a key that is not there.
    pub defaults: Defaults,
    /// What its files call the parts of an expert, where its models have experts.
    pub experts: Option<experts::ExpertNames>,
    /// Sets the features of a model of this family; those of a Llama without biases are set already.
    pub from_json: fn(&json::Keys, &mut Architecture) -> Result<()>,
    /// The same from the metadata of a GGUF file.
    pub from_gguf: fn(&gguf::Keys, &mut Architecture) -> Result<()>,
    /// Its inverse: what a GGUF file says of a model of this family beside what all say.
    pub to_gguf: fn(&Architecture, &mut gguf::Said),
    /// The inverse of [`Family::from_json`]: what a config.json says of a model of this family beside what all say, or in place of it.
    pub to_json: fn(&Architecture, &mut Map<String, Value>),
    /// Whether GGUF files keep the rows of query and key in the order of ggml's older rotary embedding; see [`Order::Interleaved`].
    pub interleaved: bool,
    /// What GGUF files call the norms of a layer: before and after attention, before and after the MLP.
    pub ggml_norms: [&'static str; 4],
}

/// Values that a config.json may leave out.
pub struct Defaults {
    /// `None`: it may not be left out.
    pub vocab_size: Option<usize>,
    /// `None`: it may not be left out.
    pub num_attention_heads: Option<usize>,
    /// `None`: hidden_size / num_attention_heads.
    pub head_dim: Option<usize>,
    /// `None`: as many as there are heads.
    pub num_key_value_heads: Option<usize>,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub max_position_embeddings: usize,
    /// For scaled rotations; `None`: what the scaling says.
    pub original_max_position_embeddings: Option<usize>,
    pub tie_word_embeddings: bool,
}

impl Defaults {
    /// Those of `LlamaConfig`.
    pub const LLAMA: Self = Self {
        vocab_size: None,
        num_attention_heads: None,
        head_dim: None,
        num_key_value_heads: None,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        max_position_embeddings: 2048,
        original_max_position_embeddings: None,
        tie_word_embeddings: false,
    };
}

/// Largest value of a dimension (vocabulary, features) that is believed. A model of [`LARGEST_DEPTH`] layers with seven
/// matrices of such dimensions has less than 2^59 parameters, so that counts and bytes fit a `u64`.
const LARGEST_DIMENSION: usize = 1 << 22;
/// Most features of a head that attention has kernels for.
const LARGEST_HEAD: usize = 256;
/// Largest number of layers that is believed.
const LARGEST_DEPTH: usize = 4096;

/// A decoder-only transformer: sizes and features. Field names are Hugging Face's where it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// The transformers class: `LlamaForCausalLM`.
    pub class: &'static str,
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
    pub max_position_embeddings: usize,
    /// Whether the output matrix is the embedding matrix.
    pub tie_word_embeddings: bool,
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,

    /// Where a layer has norms.
    pub norms: Norms,
    /// Whether norms multiply by 1 + weight.
    pub norm_adds_one: bool,
    /// Norms of query and key before the rotation.
    pub query_key_norm: QueryKeyNorm,
    /// Whether query, key and value are one matrix, and gate and up another.
    pub fused: bool,
    /// Biases of query, key and value.
    pub query_key_value_bias: bool,
    /// Bias of the projection after attention.
    pub attention_output_bias: bool,
    /// Whether each query head has a score of its own in the softmax of every token, without a value.
    pub attention_sinks: bool,
    /// Biases of the MLP, or of experts and their router.
    pub mlp_bias: bool,
    /// The experts that some layers have in the place of their MLP.
    pub experts: Option<Experts>,
    /// By what training multiplies the load balancing loss of the routers that it adds to its own; `None` for none. It is no part of the
    /// model.
    pub router_aux_loss_coef: Option<f64>,
    /// What the gate of the MLP goes through.
    pub activation: Activation,
    /// By what the products of query and key are multiplied.
    pub attention_scale: f64,
    /// Products of query and key pass through `c tanh(x / c)`.
    pub attention_softcap: Option<f64>,
    /// So do the logits.
    pub final_softcap: Option<f64>,
    /// By what embeddings are multiplied.
    pub embedding_multiplier: f64,
    /// By what each half of a layer is multiplied before it is added to the residual.
    pub residual_multiplier: f64,
    /// By what logits are divided.
    pub logits_scaling: f64,
    /// The rotations that layers choose from.
    pub ropes: Vec<Rope>,
    /// One a layer.
    pub layers: Vec<Layer>,
    /// What stands between `model.` and `layers.` in the module names of transformers: empty, or `language_model.` for the text part of
    /// a model that has others.
    pub text_path: &'static str,
    /// Whether GGUF files have the rows of query and key in ggml's order.
    pub gguf_interleaved: bool,
}

/// What sets a layer's attention apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// A token sees so many tokens, itself included; all before it, if `None`.
    pub window: Option<usize>,
    /// Which of [`Architecture::ropes`] rotates query and key; none does, if `None`.
    pub rope: Option<usize>,
}

/// Where a layer has norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// Before attention and before the MLP.
    Before,
    /// After each, before the residual is added.
    After,
    Both,
}

/// Norms of query and key before the rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryKeyNorm {
    None,
    /// Each head by itself, with one weight `[head_dim]` for all.
    Head,
    /// All heads of a token together.
    Width,
}

/// What the gate of the MLP goes through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x sigmoid(x)`
    Silu,
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`
    GeluTanh,
    /// `g sigmoid(alpha g)` of `g = min(x, limit)`; beside it, up is bound to `-limit ..= limit` and counts 1 more.
    ClampedSilu { limit: f64, alpha: f64 },
}

impl Architecture {
    /// Checks that the sizes are possible and fit together, whatever file they come from.
    ///
    /// # Errors
    /// [`Error::BadInput`] at `place` naming the first value that cannot be.
    pub fn check(&self, place: &str) -> Result<()> {
        self.check_sizes(place)?;
        let [limit, alpha] = match self.activation {
            Activation::ClampedSilu { limit, alpha } => [Some(limit), Some(alpha)],
            Activation::Silu | Activation::GeluTanh => [None; 2],
        };
        let bad = |key: &str, problem: String| Err(Error::bad_input(format!("{place}: {key}"), problem, WRONG_CONFIG));
        for (key, value) in [
            ("rms_norm_eps", Some(self.rms_norm_eps)),
            ("attention scale", Some(self.attention_scale)),
            ("attn_logit_softcapping", self.attention_softcap),
            ("final_logit_softcapping", self.final_softcap),
            ("embedding_multiplier", Some(self.embedding_multiplier)),
            ("residual_multiplier", Some(self.residual_multiplier)),
            ("logits_scaling", Some(self.logits_scaling)),
            ("swiglu_limit", limit),
            ("swiglu_alpha", alpha),
        ] {
            if let Some(value) = value.filter(|&value| !(value.is_finite() && value > 0.0 && value < 1e30)) {
                return bad(key, format!("is {value}, but must be positive"));
            }
        }
        if self.layers.len() != self.num_hidden_layers {
            return bad("num_hidden_layers", format!("is {}, but {} are described", self.num_hidden_layers, self.layers.len()));
        }
        if self.layers.iter().any(|layer| layer.window == Some(0)) {
            return bad("sliding_window", "is 0, so that no token would see itself".to_owned());
        }
        if let Some(experts) = &self.experts {
            experts.check(place, self.hidden_size)?;
        }
        self.ropes.iter().try_for_each(|rope| rope.check(place))
    }

    /// The part of [`Architecture::check`] that makes it safe to have a value a layer.
    fn check_sizes(&self, place: &str) -> Result<()> {
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
        Ok(())
    }

    /// Whether graftling can train and run this model.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming the feature that it has no kernels for.
    pub fn supported(&self) -> Result<()> {
        if !self.head_dim.is_multiple_of(4) || self.head_dim > LARGEST_HEAD {
            return Err(Error::bad_input(
                format!("architecture {}", self.class),
                format!("has heads of {} features, which graftling has no kernels for", self.head_dim),
                format!("Use a model whose head_dim is a multiple of 4, at most {LARGEST_HEAD}."),
            ));
        }
        if let Some(experts) = &self.experts {
            let values = experts.count.saturating_mul(experts.intermediate_size).saturating_mul(self.hidden_size);
            if values > u32::MAX as usize {
                return Err(Error::bad_input(
                    format!("architecture {}", self.class),
                    format!("has {} experts with {values} values in a matrix of each kind together", experts.count),
                    format!("graftling's kernels count to {}: use a model with fewer or smaller experts.", u32::MAX),
                ));
            }
        }
        self.ropes.iter().try_for_each(Rope::supported)
    }

    /// The experts of a layer, where it has some in the place of its MLP.
    pub fn experts_of(&self, layer: usize) -> Option<&Experts> {
        self.experts.as_ref().filter(|experts| experts.layers.get(layer).copied().unwrap_or(false))
    }

    /// Tokens of the longest text that the rotation is made for. Dynamic scaling goes beyond the positions that the config names.
    pub fn context(&self) -> usize {
        let factor = self.ropes.first().and_then(Rope::dynamic).map_or(1.0, |rope| rope.factor.max(1.0));
        ((self.max_position_embeddings as f64 * factor) as usize).min(u32::MAX as usize)
    }

    /// Query columns: features of all heads.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Key columns, and value columns.
    pub fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// The distinct windows of the layers, ascending.
    pub fn windows(&self) -> Vec<usize> {
        let mut windows: Vec<usize> = self.layers.iter().filter_map(|layer| layer.window).collect();
        windows.sort_unstable();
        windows.dedup();
        windows
    }
}

/// What to do about a config with an impossible value.
const WRONG_CONFIG: &str = "Check that this is the config.json that belongs to the model; download it again if it was edited.";

/// The refusal of an architecture by name.
pub(crate) fn unsupported_architecture(architecture: &str) -> Error {
    let known = FAMILIES.map(|family| format!("{} ({})", family.class, family.models));
    Error::bad_input(format!("architecture {architecture}"), "is not supported", format!("Supported: {}.", known.join(", ")))
}

/// The decimal number that an f32 was written from: GGUF keeps 1e-5 as the nearest f32, and 1e-5 was meant.
pub(crate) fn shortest_decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
