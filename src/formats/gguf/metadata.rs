//! What the metadata say about the model and its text, as the types that the rest of the program uses.

use super::container::{Container, DAMAGED, MetaValue};
use crate::{
    Error, Result,
    formats::{GgufTokenizer, TextSource, TokenizerSource},
    model::config::{ModelConfig, RopeScaling, unsupported_architecture},
};

/// The metadata of one file, read with errors that name the key.
pub(super) struct Metadata<'a> {
    pub place: &'a str,
    pub container: &'a Container,
    /// The whole file, which holds the arrays.
    pub file: &'a [u8],
}

impl Metadata<'_> {
    /// The model's shape. `rope_factors` are the values of `rope_freqs.weight`, if the file has that tensor.
    pub fn config(&self, rope_factors: Option<&[f32]>) -> Result<ModelConfig> {
        let ggml = self.architecture()?;
        let architecture = match ggml {
            "llama" => "LlamaForCausalLM",
            "phi3" => "Phi3ForCausalLM",
            "qwen2" => "Qwen2ForCausalLM",
            other => return Err(unsupported_architecture(other)),
        };
        if self.whole(&format!("{ggml}.expert_count"))?.is_some_and(|experts| experts > 0) {
            return Err(unsupported_architecture(&format!("{ggml} with a mixture of experts")));
        }
        let key = |name: &str| format!("{ggml}.{name}");
        let size = |name: &str| self.size(&key(name));
        let required = |name: &str| size(name)?.ok_or_else(|| self.bad(&key(name), "is missing"));
        let hidden_size = required("embedding_length")?;
        let num_attention_heads = required("attention.head_count")?;
        let head_dim = match size("attention.key_length")? {
            Some(head_dim) => head_dim,
            None => hidden_size.checked_div(num_attention_heads).unwrap_or(0),
        };
        let rotated = size("rope.dimension_count")?.unwrap_or(head_dim);
        if rotated != head_dim {
            let problem = format!("is {rotated} of {head_dim}, but graftling rotates whole heads only");
            return Err(self.bad(&key("rope.dimension_count"), &problem));
        }
        let rope_theta = self.number(&key("rope.freq_base"))?.unwrap_or(10_000.0);
        let has = |name: &str| self.container.tensors.iter().any(|tensor| tensor.name == name);
        let config = ModelConfig {
            architecture: architecture.to_owned(),
            vocab_size: self.vocab_size(ggml)?,
            hidden_size,
            intermediate_size: required("feed_forward_length")?,
            num_hidden_layers: required("block_count")?,
            num_attention_heads,
            num_key_value_heads: size("attention.head_count_kv")?.unwrap_or(num_attention_heads),
            head_dim,
            rms_norm_eps: self
                .number(&key("attention.layer_norm_rms_epsilon"))?
                .ok_or_else(|| self.bad(&key("attention.layer_norm_rms_epsilon"), "is missing"))?,
            rope_theta,
            rope_scaling: self.rope_scaling(ggml, rope_theta, head_dim, rope_factors)?,
            max_position_embeddings: required("context_length")?,
            tie_word_embeddings: !has("output.weight"),
            attention_bias: has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias"),
            mlp_bias: has("blk.0.ffn_up.bias"),
            bos_token_id: self.token_id("bos_token_id")?,
            eos_token_ids: self.end_tokens()?,
        };
        config.check(self.place)?;
        Ok(config)
    }

    /// Tokenizer and chat template. A file without a tokenizer gives one without tokens.
    pub fn text(&self) -> Result<TextSource> {
        let tokenizer = GgufTokenizer {
            model: self.string("tokenizer.ggml.model")?.unwrap_or_default(),
            pre: self.string("tokenizer.ggml.pre")?,
            tokens: self.strings("tokenizer.ggml.tokens")?,
            scores: self.numbers("tokenizer.ggml.scores")?.into_iter().map(|score| score as f32).collect(),
            // A type outside u32 becomes 0 or the largest value, neither of which is a type.
            token_types: self.numbers("tokenizer.ggml.token_type")?.into_iter().map(|kind| kind as u32).collect(),
            merges: self.strings("tokenizer.ggml.merges")?,
            bos_token_id: self.token_id("bos_token_id")?,
            eos_token_id: self.token_id("eos_token_id")?,
            unknown_token_id: self.token_id("unknown_token_id")?,
            add_bos_token: self.flag("tokenizer.ggml.add_bos_token")?,
            add_space_prefix: self.flag("tokenizer.ggml.add_space_prefix")?,
        };
        let text_of = |id: Option<u32>| id.and_then(|id| tokenizer.tokens.get(id as usize).cloned());
        let mut named_tokens = Vec::new();
        for (role, key) in [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")] {
            named_tokens.extend(text_of(self.token_id(&format!("{key}_token_id"))?).map(|token| (role.to_owned(), token)));
        }
        Ok(TextSource {
            chat_template: self.string("tokenizer.chat_template")?,
            bos_token: text_of(tokenizer.bos_token_id),
            eos_token: text_of(tokenizer.eos_token_id),
            bos_token_id: tokenizer.bos_token_id,
            eos_token_ids: self.end_tokens()?,
            add_bos: tokenizer.add_bos_token,
            named_tokens,
            ..TextSource::of(TokenizerSource::Gguf(tokenizer))
        })
    }

    /// ggml's name of the architecture.
    pub fn architecture(&self) -> Result<&str> {
        let value = self.get("general.architecture").ok_or_else(|| self.bad("general.architecture", "is missing"))?;
        value.as_str().ok_or_else(|| self.bad("general.architecture", "is not a string"))
    }

    /// The embedding has the last word: metadata may count padding differently.
    fn vocab_size(&self, ggml: &str) -> Result<usize> {
        if let Some(embedding) = self.container.tensors.iter().find(|tensor| tensor.name == "token_embd.weight") {
            return Ok(embedding.shape[0]);
        }
        let tokens = match self.get("tokenizer.ggml.tokens") {
            Some(MetaValue::Array { count, .. }) => Some(*count),
            _ => None,
        };
        let key = format!("{ggml}.vocab_size");
        self.size(&key)?.or(tokens).ok_or_else(|| self.bad(&key, "is missing"))
    }

    fn rope_scaling(&self, ggml: &str, rope_theta: f64, head_dim: usize, factors: Option<&[f32]>) -> Result<RopeScaling> {
        if let Some(factors) = factors {
            if factors.len() != head_dim / 2 {
                let problem = format!("has {} factors, but heads of {head_dim} have {} frequencies", factors.len(), head_dim / 2);
                return Err(Error::bad_input(format!("{}: tensor rope_freqs.weight", self.place), problem, DAMAGED));
            }
            return Ok(RopeScaling::from_factors(factors, rope_theta));
        }
        let kind = self.string(&format!("{ggml}.rope.scaling.type"))?;
        let old_style = format!("{ggml}.rope.scale_linear");
        let factor = match self.number(&format!("{ggml}.rope.scaling.factor"))? {
            Some(factor) => Some(factor),
            None => self.number(&old_style)?,
        };
        Ok(match (kind.as_deref(), factor) {
            (None | Some("none"), None) | (Some("none"), Some(_)) | (None, Some(1.0)) => RopeScaling::None,
            (None | Some("linear"), Some(factor)) => RopeScaling::Linear { factor },
            (Some("linear"), None) => return Err(self.bad(&format!("{ggml}.rope.scaling.factor"), "is missing")),
            (Some(other), _) => RopeScaling::Unsupported(other.to_owned()),
        })
    }

    /// The end token, then the tokens that end a turn or a message.
    fn end_tokens(&self) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
            ids.extend(self.token_id(key)?.filter(|id| !ids.contains(id)));
        }
        Ok(ids)
    }

    fn bad(&self, key: &str, problem: &str) -> Error {
        Error::bad_input(format!("{}: metadata key {key}", self.place), problem, DAMAGED)
    }

    fn get(&self, key: &str) -> Option<&MetaValue> {
        self.container.metadata.get(key)
    }

    /// The value of a key as `read` takes it; an error if the value is of another kind.
    fn read<'s, T>(&'s self, key: &str, kind: &str, read: impl Fn(&'s MetaValue) -> Option<T>) -> Result<Option<T>> {
        self.get(key).map(|value| read(value).ok_or_else(|| self.bad(key, &format!("is not {kind}")))).transpose()
    }

    fn whole(&self, key: &str) -> Result<Option<u64>> {
        self.read(key, "a whole number", |value| match value {
            // Newer converters write one value a layer for some keys; equal values are one value.
            MetaValue::Array { .. } => {
                let values = value.numbers(self.file)?;
                let first = *values.first()?;
                (values.iter().all(|&v| v == first) && first >= 0.0 && first.fract() == 0.0).then_some(first as u64)
            }
            value => value.as_u64(),
        })
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        let narrow = |value: u64| usize::try_from(value).map_err(|_| self.bad(key, "is too large"));
        self.whole(key)?.map(narrow).transpose()
    }

    fn token_id(&self, name: &str) -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}");
        self.read(&key, "a token id", |value| value.as_u64().and_then(|id| u32::try_from(id).ok()))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a number", MetaValue::as_f64)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", MetaValue::as_bool)
    }

    pub fn string(&self, key: &str) -> Result<Option<String>> {
        Ok(self.read(key, "a string", MetaValue::as_str)?.map(str::to_owned))
    }

    fn strings(&self, key: &str) -> Result<Vec<String>> {
        Ok(self.read(key, "an array of UTF-8 strings", |value| value.strings(self.file))?.unwrap_or_default())
    }

    fn numbers(&self, key: &str) -> Result<Vec<f64>> {
        Ok(self.read(key, "an array of numbers", |value| value.numbers(self.file))?.unwrap_or_default())
    }
}
