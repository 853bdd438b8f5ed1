//! A model as a graph: embedding, blocks (`block`), final norm, output layer.
//!
//! The same code builds the graph for training, for evaluation and for generation; they differ in what stands at the end, and in where
//! attention finds its keys. It also builds a [`Part`] of the model: the layers below one, or those from one on.

use super::hook::{Hook, Vocabulary};
use crate::architecture::{Architecture, DynamicRope, EMBEDDING_TENSOR, Rope, slice_name};
use crate::graph::{DType, Graph, Origin, Rows, ShapeError, TensorType, ValueId};
use crate::kernel::Layout;
use crate::ops::embedding::Embedding;
use crate::ops::gather_rows::GatherRows;
use crate::ops::linear_cross_entropy::LinearCrossEntropy;
use crate::ops::load_balancing_loss::LoadBalancingLoss;
use crate::ops::matmul::Matmul;
use crate::ops::permute_columns::PermuteColumns;
use crate::ops::replace_columns::ReplaceColumns;
use crate::ops::rms_norm::{NormWeight, RmsNorm};
use crate::ops::rope::rope_table_of;
use crate::ops::scale::{Scale, between};
use crate::ops::softcap::Softcap;
use crate::ops::token_rows::TokenRows;
use std::ops::Range;

/// What the graph is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Loss, with what the gradient of the last hidden rows needs.
    Train,
    /// Loss of each supervised token.
    Evaluate,
    /// Logits of any rows, with the keys of training: to look inside.
    Probe,
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
    /// This layer alone: both what enters and what leaves it are hidden states.
    Layer(usize),
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
    /// `[tokens, hidden_size]` f32: what enters the lowest layer of [`Part::From`] and [`Part::Layer`], in place of the embedding of `input_ids`.
    pub hidden: Option<ValueId>,
    /// `[tokens, 1]` u32: index of each token in its sequence.
    pub position: ValueId,
    /// `[tokens, 1]` u32: row (or cache row) at which each token's sequence begins.
    pub segment_start: ValueId,
    /// Rows of the rope tables, where they are not the positions.
    pub rope_row: Option<RopeRow>,
    /// `[supervised, 1]` u32, ascending: rows whose next token is supervised, or whose logits are wanted. In generation `[1, 1]`.
    pub rows: ValueId,
    /// `[supervised, 1]` u32: the next token of each of these rows; only where there is a loss.
    pub targets: Option<ValueId>,
    /// `[1, 1]` f32: 1 / supervised tokens of the optimizer step; only where there is a loss.
    pub loss_weight: Option<ValueId>,
}

/// What is written for a rotation that looks at the length of a sequence.
#[derive(Clone, Copy, Debug)]
pub enum RopeRow {
    /// `row`, `[tokens, 1]` u32, chooses between two rope tables, one below the other: that for sequences of up to `original` tokens, and
    /// from row `long` on that for longer ones.
    TwoTables { row: ValueId, original: u32, long: u32 },
    /// Each length of a sequence has frequencies of its own: the table of the first rope has a row for each token, and token i reads row i
    /// of it, whose number is in `row`, `[tokens, 1]` u32. Sequences begin at position `first`.
    EveryLength { row: ValueId, table: ValueId, rope: DynamicRope, first: usize },
}

impl RopeRow {
    /// The same with rotations as if the first token of a sequence stood at this position.
    #[must_use]
    pub fn beginning_at(self, position: usize) -> Self {
        match self {
            // Its tables are told when they are written.
            Self::TwoTables { .. } => self,
            Self::EveryLength { row, table, rope, .. } => Self::EveryLength { row, table, rope, first: position },
        }
    }

    /// The values of the row input, and those of the table where it is written too: of each row its position, and the length of its
    /// sequence.
    pub fn values(&self, rows: impl Iterator<Item = (u32, usize)>) -> (ValueId, Vec<u32>, Option<(ValueId, Vec<f32>)>) {
        match *self {
            Self::TwoTables { row, original, long } => {
                let of = |(position, length)| position + if length > original as usize { long } else { 0 };
                (row, rows.map(of).collect(), None)
            }
            Self::EveryLength { row, table, rope, first } => {
                let mut angles = Vec::new();
                let mut count = 0;
                let mut last = None;
                for (position, length) in rows {
                    let frequencies = match &last {
                        Some((same, frequencies)) if *same == length => frequencies,
                        _ => &last.insert((length, rope.inverse_frequencies(length))).1,
                    };
                    let position = first + position as usize;
                    angles.extend(rope_table_of(frequencies, 1.0, position..position + 1));
                    count += 1;
                }
                (row, (0..count).collect(), Some((table, angles)))
            }
        }
    }
}

/// Values at the end of the graph.
#[derive(Clone, Copy, Debug)]
pub enum Head {
    /// `loss [1, 1]` and `nll [supervised, 1]`, in nats.
    Loss { loss: ValueId, nll: ValueId },
    /// `logits`, `[1, tokens]` in generation, `[supervised, tokens]` in a probe: of the model's vocabulary, and of what an adapter adds to it.
    Logits(ValueId),
    /// `[tokens, hidden_size]`: what enters the layer above [`Part::Below`] or [`Part::Layer`].
    Hidden(ValueId),
}

/// A model as a graph, with handles of what comes in and goes out.
#[derive(Clone, Debug)]
pub struct Model {
    pub graph: Graph,
    pub inputs: Inputs,
    /// Frozen weights by their Hugging Face name; rows that are taken apart by that of [`crate::architecture::slice_name`].
    pub weights: Vec<(String, ValueId)>,
    /// The tables of [`Architecture::ropes`], `[positions, dim]` f32.
    pub rope_tables: Vec<ValueId>,
    /// Key and value caches; only in generation.
    pub caches: Vec<ValueId>,
    /// Indices of each block's nodes, from the first block to the last; empty for those outside the [`Part`].
    pub blocks: Vec<Range<usize>>,
    pub head: Head,
    /// `[1, 1]`: how unevenly the routers of all layers spread the tokens; only in training, and where
    /// [`Architecture::router_aux_loss_coef`] asks for it.
    pub load_balancing_loss: Option<ValueId>,
}

/// Storage types of the frozen weights, by Hugging Face name.
pub type StorageOf<'a> = &'a dyn Fn(&str) -> DType;

impl Model {
    /// Builds the graph of a part of the model for at most `max_tokens` rows in a run. `hook` is told of every linear layer.
    ///
    /// # Errors
    /// A [`ShapeError`] if the architecture contradicts itself, or the hook's.
    pub fn build(
        architecture: &Architecture,
        storage: StorageOf,
        hook: &mut dyn Hook,
        purpose: Purpose,
        part: Part,
        max_tokens: usize,
    ) -> Result<Self, ShapeError> {
        Builder::new(architecture, storage, hook, purpose, part, max_tokens).build()
    }
}

pub(super) struct Builder<'a> {
    pub(super) architecture: &'a Architecture,
    storage: StorageOf<'a>,
    pub(super) hook: &'a mut dyn Hook,
    pub(super) purpose: Purpose,
    part: Part,
    pub(super) graph: Graph,
    pub(super) inputs: Inputs,
    pub(super) rope_tables: Vec<ValueId>,
    weights: Vec<(String, ValueId)>,
    pub(super) caches: Vec<ValueId>,
    /// What the routers so far give each expert, and how many rows they send there; see [`Model::load_balancing_loss`].
    pub(super) expert_shares: Option<[ValueId; 2]>,
}

impl<'a> Builder<'a> {
    fn new(
        architecture: &'a Architecture,
        storage: StorageOf<'a>,
        hook: &'a mut dyn Hook,
        purpose: Purpose,
        part: Part,
        max_tokens: usize,
    ) -> Self {
        let mut graph = Graph::new();
        let (tokens, supervised, positions) = match purpose {
            Purpose::Generate { cache } => (Rows::Tokens(max_tokens), Rows::Fixed(1), cache),
            Purpose::Train | Purpose::Evaluate | Purpose::Probe => {
                (Rows::Tokens(max_tokens), Rows::Supervised(max_tokens), max_tokens)
            }
        };
        // A rotation that looks at the length of a sequence has a second table for long ones, if there can be any.
        let by_length = architecture.ropes.iter().find_map(|rope| rope.changes_beyond()).filter(|&original| positions > original);
        let table_rows = if by_length.is_some() { 2 * positions } else { positions };
        // One that is another for every length is written with each batch.
        let dynamic = architecture.ropes.first().and_then(Rope::dynamic).filter(|rope| positions > rope.original);
        let mut input = |name: &str, tensor| graph.leaf(name, tensor, Origin::Input);
        let with_loss = matches!(purpose, Purpose::Train | Purpose::Evaluate);
        let inputs = Inputs {
            input_ids: input("input_ids", TensorType::u32(tokens, 1)),
            hidden: matches!(part, Part::From(_) | Part::Layer(_))
                .then(|| input("hidden", TensorType::f32(tokens, architecture.hidden_size))),
            position: input("position", TensorType::u32(tokens, 1)),
            segment_start: input("segment_start", TensorType::u32(tokens, 1)),
            rope_row: match (by_length, dynamic) {
                (Some(original), _) => Some(RopeRow::TwoTables {
                    row: input("rope_row", TensorType::u32(tokens, 1)),
                    original: original as u32,
                    long: positions as u32,
                }),
                (None, Some(rope)) => Some(RopeRow::EveryLength {
                    row: input("rope_row", TensorType::u32(tokens, 1)),
                    table: input("rope_table", TensorType::f32(tokens, rope.dim)),
                    rope,
                    first: 0,
                }),
                (None, None) => None,
            },
            rows: input("rows", TensorType::u32(supervised, 1)),
            targets: with_loss.then(|| input("targets", TensorType::u32(supervised, 1))),
            loss_weight: with_loss.then(|| input("loss_weight", TensorType::f32(Rows::Fixed(1), 1))),
        };
        hook.begin(&mut graph, purpose);
        let mut table = |(index, rope): (usize, &Rope)| {
            if let (0, Some(RopeRow::EveryLength { table, .. })) = (index, inputs.rope_row) {
                return table;
            }
            let name = if index == 0 { "rope_table".to_owned() } else { format!("rope_table.{index}") };
            graph.leaf(name, TensorType::f32(Rows::Fixed(table_rows), rope.dim), Origin::Weight)
        };
        let rope_tables = architecture.ropes.iter().enumerate().map(&mut table).collect();
        let (weights, caches) = (Vec::new(), Vec::new());
        let expert_shares = None;
        Self { architecture, storage, hook, purpose, part, graph, inputs, rope_tables, weights, caches, expert_shares }
    }

    /// The input that says which rows of this rope's table are read.
    pub(super) fn rope_row(&self, rope: usize) -> ValueId {
        match self.inputs.rope_row {
            Some(RopeRow::TwoTables { row, .. }) => row,
            Some(RopeRow::EveryLength { row, .. }) if rope == 0 => row,
            _ => self.inputs.position,
        }
    }

    fn build(mut self) -> Result<Model, ShapeError> {
        let depth = self.architecture.num_hidden_layers;
        let layers = match self.part {
            Part::Whole => 0..depth,
            Part::Below(layer) => 0..layer,
            Part::From(layer) => layer..depth,
            Part::Layer(layer) => layer..layer + 1,
        };
        let mut x = match self.inputs.hidden {
            Some(hidden) => hidden,
            None => self.embedding()?,
        };
        let mut blocks = vec![0..0; depth];
        for layer in layers {
            let first = self.graph.nodes().len();
            x = self.block(layer, x)?;
            blocks[layer] = first..self.graph.nodes().len();
        }
        let head = match self.part {
            Part::Below(_) | Part::Layer(_) => Head::Hidden(x),
            Part::Whole | Part::From(_) => self.head(x)?,
        };
        let load_balancing_loss = self.load_balancing_loss()?;
        let Self { graph, inputs, weights, rope_tables, caches, .. } = self;
        Ok(Model { graph, inputs, weights, rope_tables, caches, blocks, head, load_balancing_loss })
    }

    /// Whether how the routers spread the tokens is a part of the loss.
    pub(super) fn balances(&self) -> bool {
        self.purpose == Purpose::Train && self.architecture.router_aux_loss_coef.is_some()
    }

    fn load_balancing_loss(&mut self) -> Result<Option<ValueId>, ShapeError> {
        let (Some(experts), true) = (&self.architecture.experts, self.balances()) else { return Ok(None) };
        if self.part != Part::Whole {
            let found = format!("{:?}", self.part);
            return Err(ShapeError::new("model", "the layers of the load balancing loss", found, "all layers"));
        }
        let op = LoadBalancingLoss { chosen: experts.per_token };
        self.expert_shares.map(|shares| self.graph.apply_one(op, &shares, "load_balancing_loss")).transpose()
    }

    fn embedding(&mut self) -> Result<ValueId, ShapeError> {
        let (ids, own) = (self.inputs.input_ids, EMBEDDING_TENSOR);
        let matrix = self.hook.vocabulary(&mut self.graph, Vocabulary::Embedding);
        let own_rows = self.hook.own_rows(&mut self.graph, Vocabulary::Embedding);
        let is_own = matrix.is_none() && own_rows.is_none();
        let x = self.part_of_the_way("embed_tokens", is_own, |model, name, adapted| {
            let matrix = matrix.filter(|_| adapted).unwrap_or_else(|| model.vocabulary_weight(own));
            let x = model.graph.apply_one(Embedding, &[ids, matrix], name)?;
            match own_rows.filter(|_| adapted) {
                Some(own) => model.graph.apply_one(TokenRows, &[x, ids, own.rows, own.chosen], format!("{name}.own_rows")),
                None => Ok(x),
            }
        })?;
        match self.architecture.embedding_multiplier {
            1.0 => Ok(x),
            factor => self.graph.apply_one(Scale { factor }, &[x], "embedding_multiplier"),
        }
    }

    /// Norm and output layer of the rows that are wanted.
    fn head(&mut self, x: ValueId) -> Result<Head, ShapeError> {
        let x = self.graph.apply_one(GatherRows, &[x, self.inputs.rows], "supervised_rows")?;
        let x = self.norm(x, "model.norm.weight", "norm", 1)?;
        let tied = self.architecture.tie_word_embeddings;
        let own = Vocabulary::Output.tensor(tied);
        let matrix = self.hook.vocabulary(&mut self.graph, Vocabulary::Output);
        let own_rows = self.hook.own_rows(&mut self.graph, Vocabulary::Output);
        // Of the matrix, and of rows of their own behind it.
        let tokens = |model: &Self, matrix: ValueId| own_rows.map(|own| own.end.max(model.graph[matrix].tensor.shape.rows.max()));
        let scale = 1.0 / self.architecture.logits_scaling;
        Ok(match (self.inputs.targets, self.inputs.loss_weight) {
            (Some(targets), Some(weight)) => {
                if self.hook.strength() != 1.0 && (matrix.is_some() || own_rows.is_some()) {
                    let found = format!("strength {}", self.hook.strength());
                    return Err(ShapeError::new("model", "an output matrix of the adapter's below a loss", found, "strength 1"));
                }
                let output = matrix.unwrap_or_else(|| self.vocabulary_weight(own));
                let op = LinearCrossEntropy {
                    with_gradient: self.purpose == Purpose::Train,
                    scale,
                    softcap: self.architecture.final_softcap,
                    trains_matrix: self.graph[output].origin == Origin::Adapter,
                    own_rows: tokens(self, output),
                };
                let mut inputs = vec![x, output, targets, weight];
                inputs.extend(own_rows.iter().flat_map(|own| [own.rows, own.chosen]));
                let outputs = self.graph.apply(op, &inputs, "loss")?;
                Head::Loss { loss: outputs[0], nll: outputs[1] }
            }
            _ => {
                let product = Matmul { layout: Layout::NT, scale };
                let is_own = matrix.is_none() && own_rows.is_none();
                let logits = self.part_of_the_way("lm_head", is_own, |model, name, adapted| {
                    let output = matrix.filter(|_| adapted).unwrap_or_else(|| model.vocabulary_weight(own));
                    let logits = product.append(&mut model.graph, [x, output], None, name)?;
                    let (Some(own), Some(columns)) = (own_rows.filter(|_| adapted), tokens(model, output)) else {
                        return Ok(logits);
                    };
                    let of_own = product.append(&mut model.graph, [x, own.rows], None, format!("{name}.own_rows"))?;
                    let inputs = [logits, of_own, own.chosen];
                    model.graph.apply_one(ReplaceColumns { columns }, &inputs, format!("{name}.all_tokens"))
                })?;
                Head::Logits(match self.architecture.final_softcap {
                    Some(cap) => self.graph.apply_one(Softcap { cap }, &[logits], "final_softcap")?,
                    None => logits,
                })
            }
        })
    }

    /// What `of` gives with what the adapter has in the place of the model's own, or as far between the two as its strength says. `of` is told
    /// the name and whether the adapter's is wanted.
    pub(super) fn part_of_the_way(
        &mut self,
        name: &str,
        is_own: bool,
        mut of: impl FnMut(&mut Self, &str, bool) -> Result<ValueId, ShapeError>,
    ) -> Result<ValueId, ShapeError> {
        let strength = self.hook.strength();
        if is_own || strength == 1.0 {
            return of(self, name, !is_own);
        }
        let from = of(self, &format!("{name}.own"), false)?;
        let to = of(self, &format!("{name}.adapted"), true)?;
        between(&mut self.graph, [from, to], strength, name)
    }

    /// RMS norm with the weight of this name, of each of `groups` parts of a row by itself.
    pub(super) fn norm(&mut self, x: ValueId, weight: &str, name: &str, groups: usize) -> Result<ValueId, ShapeError> {
        let size = self.graph[x].tensor.shape.columns / groups;
        let adapted = self.hook.vector(&mut self.graph, &format!("{name}.weight"), 0);
        let vector = self.part_of_the_way(&format!("{name}.weight"), adapted.is_none(), |model, _, is_adapted| {
            Ok(adapted.filter(|_| is_adapted).unwrap_or_else(|| model.weight(weight.to_owned(), DType::F32, [1, size])))
        })?;
        let kind = if self.architecture.norm_adds_one { NormWeight::OnePlus } else { NormWeight::Plain };
        let op = RmsNorm { eps: self.architecture.rms_norm_eps, groups, weight: kind };
        self.graph.apply_one(op, &[x, vector], name)
    }

    /// Embedding or output layer, `[vocab_size, hidden_size]`; one leaf where both are the same weight.
    fn vocabulary_weight(&mut self, name: &str) -> ValueId {
        let known = self.weights.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
        let [rows, columns] = [self.architecture.vocab_size, self.architecture.hidden_size];
        known.unwrap_or_else(|| self.weight(name.to_owned(), (self.storage)(name), [rows, columns]))
    }

    /// Elements `rows` of the vector `tensor`, as a row, which rests in f32.
    pub(super) fn vector(&mut self, tensor: &str, rows: &Range<usize>, whole: bool) -> ValueId {
        let name = if whole { tensor.to_owned() } else { slice_name(tensor, rows) };
        self.weight(name, DType::F32, [1, rows.len()])
    }

    /// The vector `tensor` of so many numbers for each of so many experts, a row for each.
    pub(super) fn vector_of_experts(&mut self, tensor: String, experts: usize, columns: usize) -> ValueId {
        self.weight(tensor, DType::F32, [experts, columns])
    }

    /// `rows` of the matrix `tensor`, of which `whole` says whether there are others.
    pub(super) fn matrix(&mut self, tensor: &str, rows: &Range<usize>, whole: bool, columns: usize) -> ValueId {
        let name = if whole { tensor.to_owned() } else { slice_name(tensor, rows) };
        self.weight(name, (self.storage)(tensor).in_order(), [rows.len(), columns])
    }

    /// The order in which the `columns` columns of the matrix `tensor` rest, and its inverse, where it is not their own.
    pub(super) fn order_of(&mut self, tensor: &str, columns: usize) -> Option<[ValueId; 2]> {
        let ordered = (self.storage)(tensor).is_ordered();
        ordered.then(|| order_names(tensor).map(|name| self.weight(name, DType::U32, [1, columns])))
    }

    /// `x` with its columns in this order of the matrix `tensor`.
    pub(super) fn in_order_of(&mut self, tensor: &str, x: ValueId, order: Option<[ValueId; 2]>) -> Result<ValueId, ShapeError> {
        match order {
            None => Ok(x),
            Some([order, inverse]) => self.graph.apply_one(PermuteColumns, &[x, order, inverse], format!("{tensor}.input")),
        }
    }

    fn weight(&mut self, name: String, dtype: DType, [rows, columns]: [usize; 2]) -> ValueId {
        let value = self.graph.leaf(&name, TensorType::new(Rows::Fixed(rows), columns, dtype), Origin::Weight);
        self.weights.push((name, value));
        value
    }
}

/// The names of the order in which the columns of a matrix rest, and of its inverse.
pub(super) fn order_names(tensor: &str) -> [String; 2] {
    ["order", "inverse_order"].map(|own| format!("{tensor}.{own}"))
}
