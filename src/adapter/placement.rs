//! What is adapted, and how: a list of linear layers, each with a method of its own settings.

use super::lora::Lora;
use super::method::{AdapterMatrix, Method};
use super::routers::Router;
use super::start::Start;
use super::vectors::Vector;
use super::vocabulary::{OwnRows, Whole};
use crate::architecture::{Architecture, Site, routers, sites};
use crate::formats::peft::AdapterTensor;
use crate::model::hook::Vocabulary;
use crate::{Error, Result};

/// A method at a linear layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    pub site: Site,
    pub method: Method,
    /// What stands before the names of its matrices: something where several adapters are used together, which may meet at a layer.
    pub label: String,
}

impl Piece {
    pub fn new(site: Site, method: Method) -> Self {
        Self { site, method, label: String::new() }
    }

    /// What a matrix of its is called whose own name this is, such as `lora_a`.
    pub fn matrix_name(&self, own: &str) -> String {
        format!("{}{}.{own}", self.label, self.site.name())
    }

    /// Its matrices, as [`super::Adapting::matrices`].
    pub fn matrices(&self) -> Vec<AdapterMatrix> {
        let labelled = |matrix: AdapterMatrix| AdapterMatrix { name: format!("{}{}", self.label, matrix.name), ..matrix };
        self.method.matrices(&self.site).into_iter().map(labelled).collect()
    }
}

/// What is adapted. Everything about an adapter follows from it: the layout in memory, the leaves of the graph, names and shapes in
/// files, counts of parameters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Placement {
    /// In the order of [`sites`], which is that in memory.
    pub pieces: Vec<Piece>,
    /// Matrices that stand in the place of the embedding or the output matrix; the embedding comes first.
    pub whole: Vec<Whole>,
    /// Rows of their own for some tokens, in both; the embedding's come first.
    pub rows: Vec<OwnRows>,
    /// Weights of norms and biases that are trained as a whole.
    pub vectors: Vec<Vector>,
    /// Routers of experts that are trained as a whole.
    pub routers: Vec<Router>,
    /// Of what stands in the place of the model's own: `whole`, `rows`, `vectors` and `routers`. Each piece has its own.
    pub strength: Strength,
}

/// How far from what the model's own gives to what stands in its place gives: 1 as trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strength(pub f64);

impl Default for Strength {
    fn default() -> Self {
        Self(1.0)
    }
}

impl Placement {
    /// All trained matrices, in the order in which they lie in memory.
    pub fn matrices(&self) -> Vec<AdapterMatrix> {
        self.all_matrices().filter(|matrix| matrix.trained).collect()
    }

    /// Those that keep the values that they start with.
    pub fn frozen_matrices(&self) -> Vec<AdapterMatrix> {
        self.all_matrices().filter(|matrix| !matrix.trained).collect()
    }

    /// Its matrices that belong to no linear layer.
    pub fn matrices_beside(&self) -> impl Iterator<Item = AdapterMatrix> {
        let of_vocabulary = self.whole.iter().map(Whole::matrix).chain(self.rows.iter().map(OwnRows::matrix));
        of_vocabulary.chain(self.vectors.iter().map(Vector::matrix)).chain(self.routers.iter().map(Router::matrix))
    }

    /// In the order of memory.
    fn all_matrices(&self) -> impl Iterator<Item = AdapterMatrix> {
        let of_vocabulary = |module| {
            let whole = self.whole.iter().filter(move |whole| whole.module == module).map(Whole::matrix);
            whole.chain(self.rows.iter().filter(move |rows| rows.module == module).map(OwnRows::matrix))
        };
        let pieces = self.pieces.iter().flat_map(Piece::matrices);
        let of_layers = self.vectors.iter().map(Vector::matrix).chain(self.routers.iter().map(Router::matrix));
        of_vocabulary(Vocabulary::Embedding).chain(pieces).chain(of_layers).chain(of_vocabulary(Vocabulary::Output))
    }

    /// The same with what it does to the model times `strength`: 0 is the base model, 1 what was trained, and what is no product lies as
    /// far between the two.
    ///
    /// # Errors
    /// Bad input: it adds tokens to the model, which are there or not.
    pub fn at_strength(mut self, strength: f64) -> Result<Self> {
        let adds_tokens =
            self.whole.iter().any(|whole| whole.shape[0] != whole.known) || self.rows.iter().any(|rows| rows.end() > rows.known);
        if adds_tokens && strength != 1.0 {
            let problem = format!("strength {strength}: it adds tokens, of which the model has nothing that could be between");
            return Err(Error::bad_input("adapter", problem, "choose 0 (without it) or 1 (with it)"));
        }
        self.pieces.iter_mut().for_each(|piece| piece.method.multiply(strength));
        self.strength.0 *= strength;
        Ok(self)
    }

    /// The same with another start, and another learning rate of what PEFT's optimizer for LoRA+ counts with B.
    #[must_use]
    pub fn learning(mut self, start: Start, b_rate: f64) -> Self {
        for piece in &mut self.pieces {
            if let Some(lora) = piece.method.lora_mut() {
                (lora.start, lora.b_rate) = (start, b_rate);
            }
        }
        self
    }

    /// Those of these matrices that the graph has as well.
    pub fn frozen_of(&self, matrices: &[AdapterTensor]) -> Vec<AdapterTensor> {
        let frozen = self.frozen_matrices();
        matrices.iter().filter(|tensor| frozen.iter().any(|matrix| matrix.name == tensor.name)).cloned().collect()
    }

    /// Starting values of all trained matrices; those that start from the base model's weights are zero here; see
    /// [`super::start`].
    pub fn initial(&self, seed: u64) -> Vec<AdapterTensor> {
        let of_piece = |piece: &Piece| {
            let tensor = |matrix: AdapterMatrix| {
                let values = piece.method.initial(&matrix, seed);
                AdapterTensor { name: matrix.name, shape: matrix.shape, values }
            };
            piece.matrices().into_iter().filter(|matrix| matrix.trained).map(tensor).collect::<Vec<_>>()
        };
        let zero = |matrix: AdapterMatrix| AdapterTensor {
            values: vec![0.0; matrix.elements()],
            name: matrix.name,
            shape: matrix.shape,
        };
        let beside = self.matrices_beside().filter(|matrix| matrix.trained).map(zero);
        self.pieces.iter().flat_map(of_piece).chain(beside).collect()
    }

    /// The methods at this site, in their order.
    pub fn at(&self, site: &Site) -> impl Iterator<Item = &Piece> {
        let number = site.number;
        self.pieces.iter().filter(move |piece| piece.site.number == number)
    }

    /// The lowest layer with something trained in it or before it: nothing below has a backward pass, and all below is the base model. 0 if
    /// there is none.
    pub fn lowest_layer(&self) -> usize {
        if self.whole_of(Vocabulary::Embedding).is_some() || self.rows_of(Vocabulary::Embedding).is_some() {
            return 0;
        }
        let vectors = self.vectors.iter().filter_map(|vector| vector.layer);
        let routers = self.routers.iter().map(|router| router.layer);
        self.pieces.iter().map(|piece| piece.site.layer).chain(vectors).chain(routers).min().unwrap_or(0)
    }

    /// Whether training drops inputs anywhere.
    pub fn has_dropout(&self) -> bool {
        self.pieces.iter().any(|piece| piece.method.dropout() > 0.0)
    }

    /// Numbers that are trained.
    pub fn parameters(&self) -> usize {
        self.matrices().iter().map(AdapterMatrix::elements).sum()
    }
}

/// LoRA of one rank in some modules of some layers: the shorthand for a uniform [`Placement`].
#[derive(Clone, Debug, PartialEq)]
pub struct UniformLora {
    /// Rank.
    pub r: usize,
    /// `s`: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA.
    pub scale: f64,
    /// Probability with which an element of x is dropped on the adapter's path, in training.
    pub dropout: f64,
    /// `q_proj`, `down_proj`, ...
    pub target_modules: Vec<String>,
    /// Adapted layers.
    pub layers: Vec<usize>,
}

impl UniformLora {
    /// What it means on this model.
    pub fn on(&self, model: &Architecture) -> Placement {
        let adapted =
            |site: &Site| self.layers.contains(&site.layer) && self.target_modules.iter().any(|target| target == site.module);
        let lora = Lora { dropout: self.dropout, ..Lora::new(self.r, self.scale) };
        let piece = |site| Piece::new(site, Method::Lora(lora.clone()));
        let all = sites(model).into_iter().chain(routers(model));
        Placement { pieces: all.filter(adapted).map(piece).collect(), ..Placement::default() }
    }
}
