//! Where what is trained joins a model: a hook that is told of every linear layer while the graph is built.

use super::graph::Purpose;
use crate::architecture::{EMBEDDING_TENSOR, OUTPUT_TENSOR, Site};
use crate::graph::{Graph, ShapeError, ValueId};

/// A linear layer of the frozen model, just built.
pub struct Linear<'a> {
    pub site: &'a Site,
    /// What enters it, `[tokens, in_features]`.
    pub x: ValueId,
    /// Where the rows of each expert begin in `x`, where it is a layer of several; see [`MatmulExperts`](crate::ops::matmul::MatmulExperts).
    pub offsets: Option<ValueId>,
    /// Its frozen weight, one a part of [`Site::outputs`]: `[rows of the part, in_features]`, of all experts one below the other.
    pub weights: Vec<ValueId>,
    /// The order in which their columns rest, and its inverse, where that is not the order of `x`'s columns.
    pub order: Option<[ValueId; 2]>,
    /// By what its output is multiplied before it is added to the residual; 1 for layers that are not added to it.
    pub factor: f64,
    /// What it gives, one a part of [`Site::outputs`]: `[tokens, rows of the part]`, the residual added where the layer ends a half.
    pub outputs: Vec<ValueId>,
}

/// What attention or the MLP gives, before the residual is added.
#[derive(Clone, Copy, Debug)]
pub struct Half<'a> {
    /// The linear layer that ends it: of [`Role::AttentionOutput`](crate::architecture::Role) or [`Role::Down`](crate::architecture::Role).
    pub site: &'a Site,
    /// What that layer gives, with its bias, `[tokens, hidden_size]`.
    pub output: ValueId,
    /// What it will be added to, `[tokens, hidden_size]`: what entered this half, before any norm.
    pub residual: ValueId,
}

/// A matrix with a row for each token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Vocabulary {
    /// `embed_tokens`: what enters the first layer.
    Embedding,
    /// `lm_head`: what gives the logits, also where the model's own is the embedding.
    Output,
}

impl Vocabulary {
    /// The module's own name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embed_tokens",
            Self::Output => "lm_head",
        }
    }

    /// The model's tensor of it; `tied`: the model has one for both.
    pub fn tensor(self, tied: bool) -> &'static str {
        match self {
            Self::Output if !tied => OUTPUT_TENSOR,
            _ => EMBEDDING_TENSOR,
        }
    }
}

/// Rows of their own for some tokens, in the place of the matrix's or behind them.
#[derive(Clone, Copy, Debug)]
pub struct OwnRows {
    /// `[own, hidden_size]` f32.
    pub rows: ValueId,
    /// `[own, 1]` u32, strictly increasing: of which tokens. All that the matrix has no row for are among them.
    pub chosen: ValueId,
    /// One more than the largest of them.
    pub end: usize,
}

/// Adds to a model from above.
pub trait Hook {
    /// The graph has the model's inputs and nothing else; those of the hook follow.
    fn begin(&mut self, _graph: &mut Graph, _purpose: Purpose) {}

    /// Must [`Linear::outputs`] of this layer be its product alone, and what is added to the residual be added after the hook?
    fn stands_alone(&self, _site: &Site) -> bool {
        false
    }

    /// What stands for the embedding or the output matrix, `[tokens, hidden_size]`; `None` for the model's own.
    fn vocabulary(&mut self, _graph: &mut Graph, _module: Vocabulary) -> Option<ValueId> {
        None
    }

    /// How far from what the model's own embedding, output matrix, norms and routers give to what stands for them.
    fn strength(&self) -> f64 {
        1.0
    }

    /// The tokens whose rows are elsewhere than in that matrix.
    fn own_rows(&mut self, _graph: &mut Graph, _module: Vocabulary) -> Option<OwnRows> {
        None
    }

    /// What stands for a part of the vector of this name (`layers.3.input_layernorm.weight`, `layers.3.self_attn.q_proj.bias`), `[1, size]`;
    /// `None` for the model's own.
    fn vector(&mut self, _graph: &mut Graph, _name: &str, _part: usize) -> Option<ValueId> {
        None
    }

    /// What stands for the router of experts of this name (`layers.3.mlp.gate.weight`), `[experts, hidden_size]`; `None` for the model's own.
    fn router(&mut self, _graph: &mut Graph, _name: &str) -> Option<ValueId> {
        None
    }

    /// What stands for the outputs of a linear layer.
    ///
    /// # Errors
    /// A [`ShapeError`] if what is added does not fit.
    fn after(&mut self, graph: &mut Graph, linear: Linear) -> Result<Vec<ValueId>, ShapeError>;

    /// What stands for the output of a half whose layer [stands alone](Hook::stands_alone), before its norm, if it has one there, and before
    /// the residual is added.
    ///
    /// # Errors
    /// A [`ShapeError`] if what is added does not fit.
    fn after_half(&mut self, _graph: &mut Graph, half: Half) -> Result<ValueId, ShapeError> {
        Ok(half.output)
    }
}

/// Adds nothing.
pub struct Bare;

impl Hook for Bare {
    fn after(&mut self, _graph: &mut Graph, linear: Linear) -> Result<Vec<ValueId>, ShapeError> {
        Ok(linear.outputs)
    }
}
