//! The metadata of a GGUF file as an [`Architecture`].
//!
//! Keys are those of `gguf-py/gguf/constants.py`, and what they leave unsaid is what llama.cpp takes.

use super::rope::{longrope_attention_factor, yarn_attention_factor};
use super::{Architecture, FAMILIES, Family, Layer, Rope, RopeScaling, unsupported_architecture};
use crate::{Error, Result};

/// What a GGUF file says about its model, read with errors that name key or tensor.
pub trait Metadata {
    /// For messages: the file's path.
    fn place(&self) -> &str;
    /// An error about the value of a key.
    fn bad(&self, key: &str, problem: &str) -> Error;
    /// A string.
    ///
    /// # Errors
    /// If the value is of another kind.
    fn string(&self, key: &str) -> Result<Option<String>>;
    /// A whole number; several equal ones are one.
    ///
    /// # Errors
    /// If the value is of another kind.
    fn size(&self, key: &str) -> Result<Option<usize>>;
    /// A number.
    ///
    /// # Errors
    /// If the value is of another kind.
    fn number(&self, key: &str) -> Result<Option<f64>>;
    /// One or several numbers (or flags, as 0 and 1).
    ///
    /// # Errors
    /// If the value is of another kind.
    fn numbers(&self, key: &str) -> Result<Vec<f64>>;
    /// The shape of a tensor, first dimension first.
    fn shape(&self, tensor: &str) -> Option<&[usize]>;
    /// The values of a vector in F32.
    ///
    /// # Errors
    /// If the tensor is no such vector.
    fn vector(&self, tensor: &str) -> Result<Option<Vec<f32>>>;
    /// Number of tokens of the tokenizer, if it has one.
    fn tokens(&self) -> Option<usize>;
    /// `tokenizer.ggml.bos_token_id`.
    ///
    /// # Errors
    /// If the value is of another kind.
    fn bos_token_id(&self) -> Result<Option<u32>>;
    /// The end token, then the tokens that end a turn or a message.
    ///
    /// # Errors
    /// If a value is of another kind.
    fn end_tokens(&self) -> Result<Vec<u32>>;
}

/// What a GGUF file is to say of a model: the inverse of [`Architecture::from_gguf`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// `general.architecture`, with which the keys begin.
    pub ggml: &'static str,
    /// In the order of `convert_hf_to_gguf.py`.
    pub keys: Vec<(String, Value)>,
    /// Tensors that describe and are no parameters: factors of frequencies.
    pub vectors: Vec<(String, Vec<f32>)>,
}

/// The value of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Size(usize),
    Number(f64),
    Text(&'static str),
    Flags(Vec<bool>),
}

impl Said {
    /// Says something under the architecture's name.
    pub fn say(&mut self, key: &str, value: Value) {
        self.keys.push((format!("{}.{key}", self.ggml), value));
    }

    fn rope(&mut self, rope: &Rope) {
        let size = |value: usize| Value::Size(value);
        let factors = |factors: &[f64]| factors.iter().map(|&factor| factor as f32).collect();
        match &rope.scaling {
            RopeScaling::None | RopeScaling::Dynamic { .. } | RopeScaling::Unsupported(_) => {}
            RopeScaling::Linear { factor } => {
                self.say("rope.scaling.type", Value::Text("linear"));
                self.say("rope.scaling.factor", Value::Number(*factor));
            }
            RopeScaling::Llama3 { .. } => {
                let plain = Rope::plain(rope.theta, rope.dim).inverse_frequencies(1);
                let scaled = rope.inverse_frequencies(1);
                let divisors: Vec<f64> = plain.iter().zip(scaled).map(|(plain, scaled)| plain / scaled).collect();
                self.vectors.push(("rope_freqs.weight".to_owned(), factors(&divisors)));
            }
            RopeScaling::Yarn { factor, attention_factor, beta_fast, beta_slow, original_max_position_embeddings, .. } => {
                self.say("rope.scaling.type", Value::Text("yarn"));
                self.say("rope.scaling.factor", Value::Number(*factor));
                self.say("rope.scaling.original_context_length", size(*original_max_position_embeddings));
                // Beside what follows from the factor, or is usual.
                for (key, value, usual) in [
                    ("rope.scaling.attn_factor", attention_factor / yarn_attention_factor(*factor, 1.0), 1.0),
                    ("rope.scaling.yarn_beta_fast", *beta_fast, 32.0),
                    ("rope.scaling.yarn_beta_slow", *beta_slow, 1.0),
                ] {
                    if (value - usual).abs() > 1e-9 {
                        self.say(key, Value::Number(value));
                    }
                }
            }
            RopeScaling::LongRope { short, long, attention_factor, original_max_position_embeddings } => {
                self.say("rope.scaling.original_context_length", size(*original_max_position_embeddings));
                self.say("rope.scaling.attn_factor", Value::Number(*attention_factor));
                self.vectors.push(("rope_factors_long.weight".to_owned(), factors(long)));
                self.vectors.push(("rope_factors_short.weight".to_owned(), factors(short)));
            }
            RopeScaling::Factors(given) => self.vectors.push(("rope_freqs.weight".to_owned(), factors(given))),
        }
    }
}

impl Architecture {
    /// What a GGUF file of this model says. Whether it says all of it is for [`Architecture::differs`] to find, from what is read back.
    pub fn to_gguf(&self) -> Said {
        let family = self.family();
        // Files of a family without a name of its own are Llama's.
        let mut said = Said { ggml: if family.ggml.is_empty() { FAMILIES[0].ggml } else { family.ggml }, ..Said::default() };
        let rope = self.ropes.first().cloned().unwrap_or(Rope::plain(10_000.0, self.head_dim));
        for (key, value) in [
            ("block_count", Value::Size(self.num_hidden_layers)),
            ("context_length", Value::Size(self.max_position_embeddings)),
            ("embedding_length", Value::Size(self.hidden_size)),
            ("feed_forward_length", Value::Size(self.intermediate_size)),
            ("attention.head_count", Value::Size(self.num_attention_heads)),
            ("attention.head_count_kv", Value::Size(self.num_key_value_heads)),
            ("rope.freq_base", Value::Number(rope.theta)),
            ("attention.layer_norm_rms_epsilon", Value::Number(self.rms_norm_eps)),
            ("attention.key_length", Value::Size(self.head_dim)),
            ("attention.value_length", Value::Size(self.head_dim)),
        ] {
            said.say(key, value);
        }
        (family.to_gguf)(self, &mut said);
        said.say("vocab_size", Value::Size(self.vocab_size));
        said.say("rope.dimension_count", Value::Size(rope.dim));
        said.rope(&rope);
        said
    }

    /// The family whose class this is.
    pub fn family(&self) -> &'static Family {
        FAMILIES.into_iter().find(|family| family.class == self.class).unwrap_or(FAMILIES[0])
    }

    /// The first thing in which a model that was read from a file, `read`, computes something else than this one: what, here, there.
    /// Windows stand apart ([`Architecture::windows_of_layers`]), and what files keep in f32 is compared as that.
    pub fn differs(&self, read: &Self) -> Option<(&'static str, String, String)> {
        let close = |a: f64, b: f64| (a - b).abs() <= 2e-7 * a.abs().max(b.abs());
        let both = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => close(a, b),
            (None, None) => true,
            _ => false,
        };
        let rotations = |model: &Self| -> Vec<Option<Rope>> {
            model.layers.iter().map(|layer| layer.rope.and_then(|at| model.ropes.get(at).cloned())).collect()
        };
        let same_rotation = |a: &Option<Rope>, b: &Option<Rope>| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                // Dynamic scaling begins beyond the model's own length.
                let lengths = [1, self.max_position_embeddings, 2 * self.max_position_embeddings];
                let same = |length| {
                    let (a, b) = (a.inverse_frequencies(length), b.inverse_frequencies(length));
                    a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs())
                };
                lengths.into_iter().all(same) && (a.attention_factor() - b.attention_factor()).abs() <= 1e-6
            }
            _ => false,
        };
        let mut found = None;
        let mut compare = |what: &'static str, same: bool, show: &dyn Fn(&Self) -> String| {
            if !same && found.is_none() {
                found = Some((what, show(self), show(read)));
            }
        };
        macro_rules! equal {
            ($($field:ident)*) => { $(compare(stringify!($field), self.$field == read.$field, &|model| format!("{:?}", model.$field));)* };
        }
        macro_rules! near {
            ($($field:ident)*) => { $(compare(stringify!($field), close(self.$field, read.$field), &|model| model.$field.to_string());)* };
        }
        equal! {
            vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
            max_position_embeddings tie_word_embeddings norms norm_adds_one query_key_norm fused query_key_value_bias
            attention_output_bias attention_sinks mlp_bias experts activation
        }
        near! { rms_norm_eps attention_scale embedding_multiplier residual_multiplier logits_scaling }
        compare("attention_softcap", both(self.attention_softcap, read.attention_softcap), &|model| {
            format!("{:?}", model.attention_softcap)
        });
        compare("final_softcap", both(self.final_softcap, read.final_softcap), &|model| format!("{:?}", model.final_softcap));
        let (ours, theirs) = (rotations(self), rotations(read));
        let same = ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(a, b)| same_rotation(a, b));
        compare("rope", same, &|model| {
            let mut kinds: Vec<String> =
                model.ropes.iter().map(|rope| format!("{} of theta {}", rope.scaling, rope.theta)).collect();
            kinds.dedup();
            kinds.join(", ")
        });
        found
    }

    /// Whether models with sliding windows exist whose GGUF files look like this model's: the file says of no window, and there may be one.
    /// A family without an architecture of its own in GGUF uses that of Llama.
    pub fn gguf_may_lack_windows(&self) -> bool {
        let own = self.family().class;
        let looks_alike = |family: &&Family| family.class == own || (family.ggml.is_empty() && own == FAMILIES[0].class);
        self.windows().is_empty()
            && FAMILIES.into_iter().any(|family| looks_alike(&family) && family.keys.contains(&"sliding_window"))
    }

    /// The window of each layer.
    pub fn windows_of_layers(&self) -> Vec<Option<usize>> {
        self.layers.iter().map(|layer| layer.window).collect()
    }
}

/// The keys that begin with the architecture's name.
pub struct Keys<'a> {
    pub metadata: &'a dyn Metadata,
    ggml: &'a str,
}

impl Architecture {
    /// Reads the metadata of a GGUF file.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming the key, if the architecture is not one of [`FAMILIES`], or a value is missing, of the wrong kind, or
    /// impossible.
    pub fn from_gguf(metadata: &dyn Metadata) -> Result<Self> {
        let name = "general.architecture";
        let ggml = metadata.string(name)?.ok_or_else(|| metadata.bad(name, "is missing"))?;
        let keys = Keys { metadata, ggml: &ggml };
        let has_experts = keys.size("expert_count")?.is_some_and(|experts| experts > 0);
        let is_named = |family: &&&Family| match family.ggml {
            // Files of a family without a name of its own are Llama's.
            "" => has_experts && ggml == FAMILIES[0].ggml,
            name => name == ggml,
        };
        match FAMILIES.iter().filter(is_named).find(|family| family.experts.is_some() == has_experts) {
            Some(family) => keys.architecture(family),
            None if has_experts => Err(unsupported_architecture(&format!("{ggml} with a mixture of experts"))),
            None => Err(unsupported_architecture(&ggml)),
        }
    }
}

impl Keys<'_> {
    fn architecture(&self, family: &'static Family) -> Result<Architecture> {
        let hidden_size = self.required("embedding_length")?;
        let num_attention_heads = self.required("attention.head_count")?;
        let head_dim = match self.size("attention.key_length")? {
            Some(head_dim) => head_dim,
            None => hidden_size.checked_div(num_attention_heads).unwrap_or(0),
        };
        if let Some(value_length) = self.size("attention.value_length")?.filter(|&length| length != head_dim) {
            let problem = format!("is {value_length}, but keys have {head_dim} features, and graftling has one size for both");
            return Err(self.bad("attention.value_length", &problem));
        }
        let epsilon = "attention.layer_norm_rms_epsilon";
        let mut architecture = Architecture {
            vocab_size: self.vocab_size()?,
            hidden_size,
            intermediate_size: self.required("feed_forward_length")?,
            num_hidden_layers: self.required("block_count")?,
            num_attention_heads,
            num_key_value_heads: self.size("attention.head_count_kv")?.unwrap_or(num_attention_heads),
            head_dim,
            rms_norm_eps: self.number(epsilon)?.ok_or_else(|| self.bad(epsilon, "is missing"))?,
            max_position_embeddings: self.required("context_length")?,
            tie_word_embeddings: !self.has("output.weight"),
            bos_token_id: self.metadata.bos_token_id()?,
            eos_token_ids: self.metadata.end_tokens()?,
            query_key_value_bias: self.has("blk.0.attn_q.bias") || self.has("blk.0.attn_qkv.bias"),
            attention_output_bias: self.has("blk.0.attn_output.bias"),
            mlp_bias: self.has("blk.0.ffn_down.bias"),
            attention_scale: 1.0 / (head_dim as f64).sqrt(),
            ..Architecture::plain(family)
        };
        architecture.check_sizes(self.metadata.place())?;
        architecture.layers = vec![Layer { window: None, rope: Some(0) }; architecture.num_hidden_layers];
        architecture.ropes = vec![self.rope(&architecture)?];
        (family.from_gguf)(self, &mut architecture)?;
        architecture.check(self.metadata.place())?;
        Ok(architecture)
    }

    /// The embedding has the last word: metadata may count padding differently.
    fn vocab_size(&self) -> Result<usize> {
        if let Some(&[rows, _]) = self.metadata.shape("token_embd.weight") {
            return Ok(rows);
        }
        self.size("vocab_size")?.or(self.metadata.tokens()).ok_or_else(|| self.bad("vocab_size", "is missing"))
    }

    fn rope(&self, sizes: &Architecture) -> Result<Rope> {
        let theta = self.number("rope.freq_base")?.unwrap_or(10_000.0);
        let dim = self.size("rope.dimension_count")?.unwrap_or(sizes.head_dim);
        if dim > sizes.head_dim {
            let problem = format!("is {dim}, more than the {} features of a head", sizes.head_dim);
            return Err(self.bad("rope.dimension_count", &problem));
        }
        Ok(Rope { theta, dim, scaling: self.scaling(theta, dim, sizes)? })
    }

    fn scaling(&self, theta: f64, dim: usize, sizes: &Architecture) -> Result<RopeScaling> {
        let factors = |tensor: &str| -> Result<Option<Vec<f32>>> {
            let Some(factors) = self.metadata.vector(tensor)? else { return Ok(None) };
            if factors.len() != dim / 2 {
                let problem = format!("has {} factors, but heads of {dim} have {} frequencies", factors.len(), dim / 2);
                let place = format!("{}: tensor {tensor}", self.metadata.place());
                return Err(Error::bad_input(place, problem, "The file is damaged: download or convert it again."));
            }
            Ok(Some(factors))
        };
        if let Some(factors) = factors("rope_freqs.weight")? {
            return Ok(RopeScaling::from_factors(&factors, theta));
        }
        let original = self.size("rope.scaling.original_context_length")?.unwrap_or(sizes.max_position_embeddings);
        if let (Some(long), Some(short)) = (factors("rope_factors_long.weight")?, factors("rope_factors_short.weight")?) {
            let stretch = sizes.max_position_embeddings as f64 / original.max(1) as f64;
            let exact = |factors: Vec<f32>| factors.into_iter().map(super::shortest_decimal).collect();
            return Ok(RopeScaling::LongRope {
                short: exact(short),
                long: exact(long),
                attention_factor: match self.number("rope.scaling.attn_factor")? {
                    Some(given) => given,
                    None => longrope_attention_factor(stretch, original),
                },
                original_max_position_embeddings: original,
            });
        }
        let kind = self.metadata.string(&self.key("rope.scaling.type"))?;
        let factor = match self.number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.number("rope.scale_linear")?,
        };
        Ok(match (kind.as_deref(), factor) {
            (None | Some("none"), None) | (Some("none"), Some(_)) | (None, Some(1.0)) => RopeScaling::None,
            (None | Some("linear"), Some(factor)) => RopeScaling::Linear { factor },
            (Some("linear" | "yarn"), None) => return Err(self.bad("rope.scaling.factor", "is missing")),
            (Some("yarn"), Some(factor)) => RopeScaling::Yarn {
                factor,
                attention_factor: self.number("rope.scaling.attn_factor")?.unwrap_or(1.0) * yarn_attention_factor(factor, 1.0),
                beta_fast: self.number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: self.number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                truncate: true,
                original_max_position_embeddings: original,
            },
            (Some(other), _) => RopeScaling::Unsupported(other.to_owned()),
        })
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.ggml)
    }

    /// An error about the value of a key.
    pub fn bad(&self, name: &str, problem: &str) -> Error {
        self.metadata.bad(&self.key(name), problem)
    }

    fn required(&self, name: &str) -> Result<usize> {
        self.size(name)?.ok_or_else(|| self.bad(name, "is missing"))
    }

    /// A whole number.
    pub fn size(&self, name: &str) -> Result<Option<usize>> {
        self.metadata.size(&self.key(name))
    }

    /// A number; GGUF keeps the nearest f32 of a short decimal, which was meant.
    pub fn number(&self, name: &str) -> Result<Option<f64>> {
        self.metadata.number(&self.key(name))
    }

    /// One or several numbers.
    pub fn numbers(&self, name: &str) -> Result<Vec<f64>> {
        self.metadata.numbers(&self.key(name))
    }

    /// The shape of a tensor, first dimension first.
    pub fn shape(&self, tensor: &str) -> Option<&[usize]> {
        self.metadata.shape(tensor)
    }

    /// Whether the file has a tensor.
    pub fn has(&self, tensor: &str) -> bool {
        self.metadata.shape(tensor).is_some()
    }
}
