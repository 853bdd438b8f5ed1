//! The parameters of a model, from its config alone: names, shapes and counts, per module and per layer.
//!
//! This is also the list that a loader checks a file against.

use super::config::ModelConfig;

/// What a parameter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    Embedding,
    Attention,
    Mlp,
    Norm,
    /// The output matrix, where it is not the embedding.
    Output,
}

impl Part {
    pub const ALL: [Part; 5] = [Self::Embedding, Self::Attention, Self::Mlp, Self::Norm, Self::Output];

    /// The word for tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Attention => "attention",
            Self::Mlp => "mlp",
            Self::Norm => "norm",
            Self::Output => "output",
        }
    }
}

/// One parameter tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Hugging Face's name: `model.layers.3.self_attn.q_proj.weight`.
    pub name: String,
    /// The module's own name: `q_proj`, `input_layernorm`, `embed_tokens`.
    pub module: &'static str,
    pub part: Part,
    /// The layer, counted from 0, for parameters of a layer.
    pub layer: Option<usize>,
    /// `[out_features, in_features]`, or `[features]` for norms and biases.
    pub shape: Vec<usize>,
}

impl Parameter {
    /// Number of values.
    pub fn count(&self) -> u64 {
        self.shape.iter().map(|&dimension| dimension as u64).product()
    }
}

/// One linear module of a layer: what LoRA can adapt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearModule {
    /// `q_proj`
    pub name: &'static str,
    /// [`Part::Attention`] or [`Part::Mlp`].
    pub part: Part,
    pub out_features: usize,
    pub in_features: usize,
    pub bias: bool,
}

impl LinearModule {
    /// Where the module hangs in its layer: `self_attn.q_proj`.
    pub fn path(&self) -> String {
        let parent = if self.part == Part::Attention { "self_attn" } else { "mlp" };
        format!("{parent}.{}", self.name)
    }

    /// Parameters of a LoRA pair of rank `r`: A `[r, in]` and B `[out, r]`.
    pub fn lora_parameters(&self, r: usize) -> u64 {
        r as u64 * (self.in_features as u64 + self.out_features as u64)
    }
}

/// The linear modules of one layer, in the order in which a token meets them.
///
/// Phi-3 keeps query, key and value in one matrix, and gate and up in another; Qwen 2 has biases on query, key and value but
/// not on the output of attention.
pub fn linear_modules(config: &ModelConfig) -> Vec<LinearModule> {
    let hidden = config.hidden_size;
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let qwen2 = config.architecture == "Qwen2ForCausalLM";
    let attention =
        |name, out_features, in_features, bias| LinearModule { name, part: Part::Attention, out_features, in_features, bias };
    let mlp = |name, out_features, in_features| LinearModule {
        name,
        part: Part::Mlp,
        out_features,
        in_features,
        bias: config.mlp_bias,
    };
    let biased = config.attention_bias;
    let mut modules = Vec::new();
    if config.architecture == "Phi3ForCausalLM" {
        modules.push(attention("qkv_proj", queries + 2 * keys, hidden, biased));
    } else {
        modules.push(attention("q_proj", queries, hidden, biased));
        modules.push(attention("k_proj", keys, hidden, biased));
        modules.push(attention("v_proj", keys, hidden, biased));
    }
    modules.push(attention("o_proj", hidden, queries, biased && !qwen2));
    if config.architecture == "Phi3ForCausalLM" {
        modules.push(mlp("gate_up_proj", 2 * config.intermediate_size, hidden));
    } else {
        modules.push(mlp("gate_proj", config.intermediate_size, hidden));
        modules.push(mlp("up_proj", config.intermediate_size, hidden));
    }
    modules.push(mlp("down_proj", hidden, config.intermediate_size));
    modules
}

/// All parameters of the model, in the order of a forward pass. With tied embeddings there is no `lm_head`.
pub fn parameters(config: &ModelConfig) -> Vec<Parameter> {
    let hidden = config.hidden_size;
    let modules = linear_modules(config);
    let mut parameters = vec![Parameter {
        name: "model.embed_tokens.weight".to_owned(),
        module: "embed_tokens",
        part: Part::Embedding,
        layer: None,
        shape: vec![config.vocab_size, hidden],
    }];
    for layer in 0..config.num_hidden_layers {
        let norm = |module: &'static str| Parameter {
            name: format!("model.layers.{layer}.{module}.weight"),
            module,
            part: Part::Norm,
            layer: Some(layer),
            shape: vec![hidden],
        };
        for part in [Part::Attention, Part::Mlp] {
            parameters.push(norm(if part == Part::Attention { "input_layernorm" } else { "post_attention_layernorm" }));
            for linear in modules.iter().filter(|linear| linear.part == part) {
                let tensor = |kind: &str, shape| Parameter {
                    name: format!("model.layers.{layer}.{}.{kind}", linear.path()),
                    module: linear.name,
                    part,
                    layer: Some(layer),
                    shape,
                };
                parameters.push(tensor("weight", vec![linear.out_features, linear.in_features]));
                if linear.bias {
                    parameters.push(tensor("bias", vec![linear.out_features]));
                }
            }
        }
    }
    parameters.push(Parameter {
        name: "model.norm.weight".to_owned(),
        module: "norm",
        part: Part::Norm,
        layer: None,
        shape: vec![hidden],
    });
    if !config.tie_word_embeddings {
        parameters.push(Parameter {
            name: "lm_head.weight".to_owned(),
            module: "lm_head",
            part: Part::Output,
            layer: None,
            shape: vec![config.vocab_size, hidden],
        });
    }
    parameters
}
