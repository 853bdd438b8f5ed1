//! All parameter tensors of a model: names in each file format, shapes, counts, and which rows the graph takes apart.
//!
//! This is the list that a loader checks a file against and reads the weights by.

use std::ops::Range;

use super::experts::{ExpertNames, SHARED_EXPERT_GATE, is_router, names_with, of_expert};
use super::{Architecture, Norms, Part, QueryKeyNorm, Role, Site, layer_routers, layer_sites};

/// The matrix with a row for each token that enters the first layer.
pub const EMBEDDING_TENSOR: &str = "model.embed_tokens.weight";
/// The one that gives the logits, where it is not the embedding.
pub const OUTPUT_TENSOR: &str = "lm_head.weight";

/// One parameter tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Hugging Face's name: `model.layers.3.self_attn.q_proj.weight`.
    pub name: String,
    /// ggml's: `blk.3.attn_q.weight`.
    pub ggml: String,
    /// The module's own name: `q_proj`, `input_layernorm`, `embed_tokens`.
    pub module: &'static str,
    pub part: Part,
    /// The layer, counted from 0, for parameters of a layer.
    pub layer: Option<usize>,
    /// `[out_features, in_features]`, or `[features]` for norms and biases, those of experts one behind the other.
    pub shape: Vec<usize>,
    /// How a GGUF file keeps the rows.
    pub order: Order,
    /// Of so many experts it is the matrix, one below the other: a GGUF file has three dimensions, a folder a tensor for each
    /// ([`Parameter::of_expert`]).
    pub experts: Option<usize>,
    /// Rows (of a vector: elements) that the graph takes apart, where it does not take them together.
    pub slices: Vec<Range<usize>>,
}

/// How a GGUF file keeps the rows of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As Hugging Face does.
    Plain,
    /// Pairs that are rotated together stand side by side in each head of so many rows: file row `h d + 2 j + t` is Hugging Face's
    /// `h d + t d/2 + j`.
    Interleaved(usize),
    /// In order, but each value more by 1: a norm's weight is kept as what it multiplies by.
    PlusOne,
}

impl Parameter {
    /// The name of one expert's own matrix: `model.layers.3.mlp.experts.7.gate_proj.weight`.
    pub fn of_expert(&self, expert: usize) -> String {
        of_expert(&self.name, expert)
    }

    /// The shape in a GGUF file: three dimensions of all experts, one of a matrix of one row.
    pub fn ggml_shape(&self) -> Vec<usize> {
        match (self.experts, self.shape.as_slice()) {
            (Some(experts), &[rows, columns]) => vec![experts, rows / experts.max(1), columns],
            (Some(experts), &[values]) => vec![experts, values / experts.max(1)],
            (None, &[1, columns]) if is_a_router(&self.name) => vec![columns],
            (_, shape) => shape.to_vec(),
        }
    }

    /// What families without experts call a module of this kind.
    pub fn usual_module(&self) -> &'static str {
        names_with(self.module).map_or(self.module, |(_, place)| ExpertNames::USUAL.modules[place])
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.shape.iter().map(|&dimension| dimension as u64).product()
    }

    /// What the graph takes: names and rows. A tensor that is taken whole has one, of its own name.
    pub fn taken(&self) -> Vec<(String, Range<usize>)> {
        if self.slices.is_empty() {
            return vec![(self.name.clone(), 0..self.shape[0])];
        }
        self.slices.iter().map(|rows| (slice_name(&self.name, rows), rows.clone())).collect()
    }
}

/// Does a parameter of this name belong to a layer?
pub fn is_of_a_layer(name: &str) -> bool {
    name.starts_with("model.layers.")
}

/// Does a parameter of this name choose experts, or weigh the one that all tokens go to? It is small, and what it gives decides much.
pub fn is_a_router(name: &str) -> bool {
    let module = name.strip_suffix(".weight").and_then(|path| path.rsplit_once('.'));
    module.is_some_and(|(_, module)| is_router(module) || module == SHARED_EXPERT_GATE)
}

/// The name of some rows of a tensor: `model.layers.3.self_attn.qkv_proj.weight[0..96]`.
pub fn slice_name(tensor: &str, rows: &Range<usize>) -> String {
    format!("{tensor}[{}..{}]", rows.start, rows.end)
}

/// The names of a layer's norms: before and after attention, before and after the MLP.
pub fn norm_modules(norms: Norms) -> [Option<&'static str>; 4] {
    match norms {
        Norms::Before => [Some("input_layernorm"), None, Some("post_attention_layernorm"), None],
        Norms::After => [None, Some("post_attention_layernorm"), None, Some("post_feedforward_layernorm")],
        Norms::Both => [
            Some("input_layernorm"),
            Some("post_attention_layernorm"),
            Some("pre_feedforward_layernorm"),
            Some("post_feedforward_layernorm"),
        ],
    }
}

/// ggml's names for the same places in most families.
pub const GGML_NORMS: [&str; 4] = ["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"];

/// All parameters of the model, in the order of a forward pass. With tied embeddings there is no `lm_head`.
pub fn parameters(model: &Architecture) -> Vec<Parameter> {
    let hidden = model.hidden_size;
    let mut parameters = vec![vocabulary(model, EMBEDDING_TENSOR, "token_embd.weight", Part::Embedding)];
    for layer in 0..model.num_hidden_layers {
        let sites = layer_sites(model, layer);
        let norms = norm_modules(model.norms);
        let ggml_norms = model.family().ggml_norms;
        let block_norm = |place: usize| norms[place].map(|module| norm(model, layer, module, module, ggml_norms[place], hidden));
        for (part, before, after) in [(Part::Attention, 0, 1), (Part::Mlp, 2, 3)] {
            parameters.extend(block_norm(before));
            if part == Part::Mlp {
                parameters.extend(layer_routers(model, layer).iter().flat_map(router));
            }
            for site in sites.iter().filter(|site| site.part == part) {
                let rotated = site.has(Role::Query) || site.has(Role::Key);
                let order = if rotated && model.gguf_interleaved { Order::Interleaved(model.head_dim) } else { Order::Plain };
                for held in site.tensors() {
                    let mut first = 0;
                    let mut slices = Vec::new();
                    for (_, rows) in held.outputs.iter().filter(|_| held.outputs.len() > 1) {
                        slices.push(first..first + rows);
                        first += rows;
                    }
                    let tensor = |kind: &str, shape| Parameter {
                        name: format!("model.{}.{kind}", held.name),
                        ggml: format!("blk.{layer}.{}.{kind}", held.ggml),
                        module: held.module,
                        part,
                        layer: Some(layer),
                        shape,
                        order,
                        experts: site.experts,
                        slices: slices.clone(),
                    };
                    let rows = site.matrices() * held.out_features();
                    parameters.push(tensor("weight", vec![rows, site.in_features]));
                    if site.bias {
                        parameters.push(tensor("bias", vec![rows]));
                    }
                }
                let normed = match model.query_key_norm {
                    QueryKeyNorm::None => None,
                    QueryKeyNorm::Head => Some([model.head_dim; 2]),
                    QueryKeyNorm::Width => Some([model.query_size(), model.key_value_size()]),
                };
                for (role, module, path, ggml, at) in [
                    (Role::Query, "q_norm", "self_attn.q_norm", "attn_q_norm", 0),
                    (Role::Key, "k_norm", "self_attn.k_norm", "attn_k_norm", 1),
                ] {
                    let size = normed.filter(|_| site.has(role)).map(|sizes| sizes[at]);
                    parameters.extend(size.map(|size| norm(model, layer, module, path, ggml, size)));
                }
            }
            if part == Part::Attention && model.attention_sinks {
                parameters.push(sinks(model, layer));
            }
            parameters.extend(block_norm(after));
        }
    }
    parameters.push(Parameter {
        name: "model.norm.weight".to_owned(),
        ggml: "output_norm.weight".to_owned(),
        module: "norm",
        part: Part::Norm,
        layer: None,
        shape: vec![hidden],
        order: norm_order(model),
        experts: None,
        slices: Vec::new(),
    });
    if !model.tie_word_embeddings {
        parameters.push(vocabulary(model, OUTPUT_TENSOR, "output.weight", Part::Output));
    }
    parameters
}

fn router(site: &Site) -> Vec<Parameter> {
    let tensor = |kind: &str, shape| Parameter {
        name: format!("model.{}.{kind}", site.name()),
        ggml: format!("blk.{}.{}.{kind}", site.layer, site.ggml),
        module: site.module,
        part: site.part,
        layer: Some(site.layer),
        shape,
        order: Order::Plain,
        experts: None,
        slices: Vec::new(),
    };
    let weight = tensor("weight", vec![site.out_features, site.in_features]);
    std::iter::once(weight).chain(site.bias.then(|| tensor("bias", vec![site.out_features]))).collect()
}

fn sinks(model: &Architecture, layer: usize) -> Parameter {
    Parameter {
        name: format!("model.layers.{layer}.self_attn.sinks"),
        ggml: format!("blk.{layer}.attn_sinks.weight"),
        module: "sinks",
        part: Part::Attention,
        layer: Some(layer),
        shape: vec![model.num_attention_heads],
        order: Order::Plain,
        experts: None,
        slices: Vec::new(),
    }
}

fn vocabulary(model: &Architecture, name: &str, ggml: &str, part: Part) -> Parameter {
    Parameter {
        name: name.to_owned(),
        ggml: ggml.to_owned(),
        module: if part == Part::Embedding { "embed_tokens" } else { "lm_head" },
        part,
        layer: None,
        shape: vec![model.vocab_size, model.hidden_size],
        order: Order::Plain,
        experts: None,
        slices: Vec::new(),
    }
}

fn norm(model: &Architecture, layer: usize, module: &'static str, path: &str, ggml: &str, size: usize) -> Parameter {
    Parameter {
        name: format!("model.layers.{layer}.{path}.weight"),
        ggml: format!("blk.{layer}.{ggml}.weight"),
        module,
        part: Part::Norm,
        layer: Some(layer),
        shape: vec![size],
        order: norm_order(model),
        experts: None,
        slices: Vec::new(),
    }
}

fn norm_order(model: &Architecture) -> Order {
    if model.norm_adds_one { Order::PlusOne } else { Order::Plain }
}
