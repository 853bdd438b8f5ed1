//! The Llama model as a graph: embedding, blocks of attention and MLP with residuals, final norm, output layer.
//!
//! The same code builds the graph for training, for evaluation and for generation; they differ in what stands at the end, and in where
//! attention finds its keys. It also builds a [`Part`] of the model: the layers below one, or those from one on.

use super::config::ModelConfig;
use crate::adapter::{LoraSpec, LoraValues, block_linears, linear};
use crate::graph::{DType, Graph, Origin, Rows, ShapeError, TensorType, ValueId};
use crate::ops::attention::{Attention, Heads};
use crate::ops::cache_rows::CacheRows;
use crate::ops::embedding::Embedding;
use crate::ops::gather_rows::GatherRows;
use crate::ops::glu::{Activation, Glu};
use crate::ops::linear_cross_entropy::LinearCrossEntropy;
use crate::ops::matmul::{Layout, Matmul};
use crate::ops::rms_norm::RmsNorm;
use crate::ops::rope::Rope;
use std::ops::Range;

/// What the graph is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Loss, with what the gradient of the last hidden rows needs.
    Train,
    /// Loss of each supervised token.
    Evaluate,
    /// Logits of one row, with keys and values of earlier tokens in a cache of this many rows.
    Generate { cache: usize },
}

/// Which part of the model a graph holds. The two parts that meet at a layer are together the whole: the same nodes with the same names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Whole,
    /// The embedding and the layers before this one, up to the hidden states that enter it: [`Head::Hidden`].
    Below(usize),
    /// This layer and all after it, with the head; the hidden states that enter it are an input, [`Inputs::hidden`].
    From(usize),
}

impl Part {
    /// What is left of the model where something else gives the hidden states that enter `first_layer`.
    pub fn above(first_layer: Option<usize>) -> Self {
        first_layer.map_or(Self::Whole, Self::From)
    }
}

/// Inputs that the host writes before each run. Those that a [`Part`] has no node for are leaves that nothing uses.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// `[tokens, 1]` u32.
    pub input_ids: ValueId,
    /// `[tokens, hidden_size]` f32: what enters the lowest layer of [`Part::From`], in place of the embedding of `input_ids`.
    pub hidden: Option<ValueId>,
    /// `[tokens, 1]` u32: index of each token in its sequence.
    pub position: ValueId,
    /// `[tokens, 1]` u32: row (or cache row) at which each token's sequence begins.
    pub segment_start: ValueId,
    /// `[supervised, 1]` u32, ascending: rows whose next token is supervised. In generation `[1, 1]`: the row whose logits are wanted.
    pub rows: ValueId,
    /// `[supervised, 1]` u32: the next token of each of these rows; not in generation.
    pub targets: Option<ValueId>,
    /// `[1, 1]` f32: 1 / supervised tokens of the optimizer step; not in generation.
    pub loss_weight: Option<ValueId>,
    /// `[1, 2]` u32: counter of the dropout generator, where there is dropout.
    pub dropout_counter: Option<ValueId>,
}

/// Values at the end of the graph.
#[derive(Clone, Copy, Debug)]
pub enum Head {
    /// `loss [1, 1]` and `nll [supervised, 1]`, in nats.
    Loss { loss: ValueId, nll: ValueId },
    /// `logits [1, vocabulary]`.
    Logits(ValueId),
    /// `[tokens, hidden_size]`: what enters the layer above [`Part::Below`].
    Hidden(ValueId),
}

/// A model as a graph, with handles of what comes in and goes out.
#[derive(Clone, Debug)]
pub struct Llama {
    pub graph: Graph,
    pub inputs: Inputs,
    /// Frozen weights by their Hugging Face name.
    pub weights: Vec<(String, ValueId)>,
    /// The rope table, `[positions, head_dim]` f32.
    pub rope_table: ValueId,
    /// Adapter matrices in the order of [`LoraSpec::tensors`].
    pub adapters: Vec<ValueId>,
    /// Key and value caches; only in generation.
    pub caches: Vec<ValueId>,
    /// Indices of each block's nodes, from the first block to the last; empty for those outside the [`Part`].
    pub blocks: Vec<Range<usize>>,
    pub head: Head,
}

/// Storage types of the frozen weights, by Hugging Face name.
pub type StorageOf<'a> = &'a dyn Fn(&str) -> DType;

impl Llama {
    /// Builds the graph for at most `max_tokens` rows in a run.
    ///
    /// # Errors
    /// A [`ShapeError`] if the configuration contradicts itself.
    pub fn build(
        config: &ModelConfig,
        storage: StorageOf,
        lora: Option<&LoraSpec>,
        purpose: Purpose,
        max_tokens: usize,
    ) -> Result<Self, ShapeError> {
        Self::build_part(config, storage, lora, purpose, Part::Whole, max_tokens)
    }

    /// [`Llama::build`] for a part of the model.
    ///
    /// # Errors
    /// As [`Llama::build`].
    pub fn build_part(
        config: &ModelConfig,
        storage: StorageOf,
        lora: Option<&LoraSpec>,
        purpose: Purpose,
        part: Part,
        max_tokens: usize,
    ) -> Result<Self, ShapeError> {
        Builder::new(config, storage, lora, purpose, part, max_tokens).build()
    }
}

struct Builder<'a> {
    config: &'a ModelConfig,
    storage: StorageOf<'a>,
    lora: Option<&'a LoraSpec>,
    purpose: Purpose,
    part: Part,
    graph: Graph,
    inputs: Inputs,
    rope_table: ValueId,
    weights: Vec<(String, ValueId)>,
    adapters: Vec<ValueId>,
    caches: Vec<ValueId>,
}

impl<'a> Builder<'a> {
    fn new(
        config: &'a ModelConfig,
        storage: StorageOf<'a>,
        lora: Option<&'a LoraSpec>,
        purpose: Purpose,
        part: Part,
        max_tokens: usize,
    ) -> Self {
        let mut graph = Graph::new();
        let (tokens, supervised, positions) = match purpose {
            Purpose::Generate { cache } => (Rows::Tokens(max_tokens), Rows::Fixed(1), cache),
            Purpose::Train | Purpose::Evaluate => (Rows::Tokens(max_tokens), Rows::Supervised(max_tokens), max_tokens),
        };
        let mut input = |name: &str, tensor| graph.leaf(name, tensor, Origin::Input);
        let with_loss = !matches!(purpose, Purpose::Generate { .. });
        let with_dropout = purpose == Purpose::Train && lora.is_some_and(|lora| lora.dropout > 0.0);
        let inputs = Inputs {
            input_ids: input("input_ids", TensorType::u32(tokens, 1)),
            hidden: matches!(part, Part::From(_)).then(|| input("hidden", TensorType::f32(tokens, config.hidden_size))),
            position: input("position", TensorType::u32(tokens, 1)),
            segment_start: input("segment_start", TensorType::u32(tokens, 1)),
            rows: input("rows", TensorType::u32(supervised, 1)),
            targets: with_loss.then(|| input("targets", TensorType::u32(supervised, 1))),
            loss_weight: with_loss.then(|| input("loss_weight", TensorType::f32(Rows::Fixed(1), 1))),
            dropout_counter: with_dropout.then(|| input("dropout_counter", TensorType::u32(Rows::Fixed(1), 2))),
        };
        let rope_table = graph.leaf("rope_table", TensorType::f32(Rows::Fixed(positions), config.head_dim), Origin::Weight);
        Self {
            config,
            storage,
            lora,
            purpose,
            part,
            graph,
            inputs,
            rope_table,
            weights: Vec::new(),
            adapters: Vec::new(),
            caches: Vec::new(),
        }
    }

    fn build(mut self) -> Result<Llama, ShapeError> {
        let layers = match self.part {
            Part::Whole => 0..self.config.num_hidden_layers,
            Part::Below(layer) => 0..layer,
            Part::From(layer) => layer..self.config.num_hidden_layers,
        };
        let mut x = match self.inputs.hidden {
            Some(hidden) => hidden,
            None => {
                let embedding = self.vocabulary_weight("model.embed_tokens.weight");
                self.graph.apply_one(Embedding, &[self.inputs.input_ids, embedding], "embed_tokens")?
            }
        };
        let mut blocks = vec![0..0; self.config.num_hidden_layers];
        for layer in layers {
            let first = self.graph.nodes().len();
            x = self.block(layer, x)?;
            blocks[layer] = first..self.graph.nodes().len();
        }
        let head = if matches!(self.part, Part::Below(_)) { Head::Hidden(x) } else { self.head(x)? };
        let Self { graph, inputs, weights, rope_table, adapters, caches, .. } = self;
        Ok(Llama { graph, inputs, weights, rope_table, adapters, caches, blocks, head })
    }

    /// Norm and output layer of the rows that are wanted.
    fn head(&mut self, x: ValueId) -> Result<Head, ShapeError> {
        let x = self.graph.apply_one(GatherRows, &[x, self.inputs.rows], "supervised_rows")?;
        let x = self.norm(x, "model.norm.weight", "norm")?;
        let tied = self.config.tie_word_embeddings;
        let output = self.vocabulary_weight(if tied { "model.embed_tokens.weight" } else { "lm_head.weight" });
        Ok(match (self.inputs.targets, self.inputs.loss_weight) {
            (Some(targets), Some(weight)) => {
                let op = LinearCrossEntropy::new(self.purpose == Purpose::Train);
                let outputs = self.graph.apply(op, &[x, output, targets, weight], "loss")?;
                Head::Loss { loss: outputs[0], nll: outputs[1] }
            }
            _ => Head::Logits(Matmul { layout: Layout::NT, scale: 1.0 }.append(&mut self.graph, [x, output], None, "lm_head")?),
        })
    }

    /// `x + attention(norm(x))`, then that plus `mlp(norm(...))`.
    fn block(&mut self, layer: usize, x: ValueId) -> Result<ValueId, ShapeError> {
        let path = format!("layers.{layer}");
        let normed = self.norm(x, &format!("model.{path}.input_layernorm.weight"), &format!("{path}.input_layernorm"))?;
        let query = self.linear(layer, 0, normed, None)?;
        let key = self.linear(layer, 1, normed, None)?;
        let value = self.linear(layer, 2, normed, None)?;
        let attended = self.attention(&path, query, key, value)?;
        let x = self.linear(layer, 3, attended, Some(x))?;

        let normed =
            self.norm(x, &format!("model.{path}.post_attention_layernorm.weight"), &format!("{path}.post_attention_layernorm"))?;
        let gate = self.linear(layer, 4, normed, None)?;
        let up = self.linear(layer, 5, normed, None)?;
        let inner = self.graph.apply_one(Glu { activation: Activation::Silu }, &[gate, up], format!("{path}.mlp.glu"))?;
        self.linear(layer, 6, inner, Some(x))
    }

    fn attention(&mut self, path: &str, query: ValueId, key: ValueId, value: ValueId) -> Result<ValueId, ShapeError> {
        let Inputs { position, segment_start, .. } = self.inputs;
        let rope = Rope::new(self.config.head_dim);
        let query = self.graph.apply_one(rope, &[query, position, self.rope_table], format!("{path}.self_attn.q_rope"))?;
        let mut key = self.graph.apply_one(rope, &[key, position, self.rope_table], format!("{path}.self_attn.k_rope"))?;
        let mut value = value;
        if let Purpose::Generate { cache } = self.purpose {
            for (rows, part) in [(&mut key, "k_cache"), (&mut value, "v_cache")] {
                let name = format!("{path}.self_attn.{part}");
                let tensor = TensorType::f32(Rows::Fixed(cache), self.graph[*rows].tensor.shape.columns);
                let state = self.graph.leaf(&name, tensor, Origin::State);
                self.caches.push(state);
                *rows = self.graph.apply_one(CacheRows, &[state, *rows, position], name)?;
            }
        }
        let heads = Heads::new(self.config.num_attention_heads, self.config.num_key_value_heads, self.config.head_dim);
        self.graph.apply_one(Attention(heads), &[query, key, value, position, segment_start], format!("{path}.self_attn"))
    }

    /// Linear layer number `index` of [`block_linears`], with its adapter if it has one.
    fn linear(&mut self, layer: usize, index: usize, x: ValueId, addend: Option<ValueId>) -> Result<ValueId, ShapeError> {
        let (path, [out, input]) = block_linears(self.config)[index];
        let name = format!("layers.{layer}.{path}");
        let weight = self.weight(&format!("model.{name}.weight"), out, input);
        let adapter = self.lora.filter(|lora| lora.adapts(layer, path)).map(|lora| {
            let mut values = LoraValues::leaves(&mut self.graph, lora, &name, [out, input]);
            self.adapters.extend([values.a, values.b]);
            let salt = (layer * block_linears(self.config).len() + index) as u32;
            values.dropout = self.inputs.dropout_counter.map(|counter| (lora.dropout, counter, salt));
            values
        });
        linear(&mut self.graph, x, weight, adapter, addend, &name)
    }

    fn norm(&mut self, x: ValueId, weight: &str, name: &str) -> Result<ValueId, ShapeError> {
        let tensor = TensorType::f32(Rows::Fixed(1), self.config.hidden_size);
        let weight_value = self.graph.leaf(weight, tensor, Origin::Weight);
        self.weights.push((weight.to_owned(), weight_value));
        self.graph.apply_one(RmsNorm::new(self.config.rms_norm_eps), &[x, weight_value], name)
    }

    /// Embedding or output layer, `[vocab_size, hidden_size]`; one leaf where both are the same weight.
    fn vocabulary_weight(&mut self, name: &str) -> ValueId {
        let known = self.weights.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
        known.unwrap_or_else(|| self.weight(name, self.config.vocab_size, self.config.hidden_size))
    }

    fn weight(&mut self, name: &str, rows: usize, columns: usize) -> ValueId {
        let tensor = TensorType::new(Rows::Fixed(rows), columns, (self.storage)(name));
        let value = self.graph.leaf(name, tensor, Origin::Weight);
        self.weights.push((name.to_owned(), value));
        value
    }
}
