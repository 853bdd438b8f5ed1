//! What is adapted, and how: a list of linear layers, each with a method of its own settings.

use super::lora::Lora;
use super::method::{AdapterMatrix, Method};
use crate::architecture::{Architecture, Site, sites};
use crate::formats::peft::AdapterTensor;

/// A method at a linear layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    pub site: Site,
    pub method: Method,
}

/// What is adapted. Everything about an adapter follows from it: the layout in memory, the leaves of the graph, names and shapes in
/// files, counts of parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// In the order of [`sites`], which is that in memory.
    pub pieces: Vec<Piece>,
}

impl Placement {
    /// All trained matrices, in the order in which they lie in memory.
    pub fn matrices(&self) -> Vec<AdapterMatrix> {
        self.pieces.iter().flat_map(|piece| piece.method.matrices(&piece.site)).collect()
    }

    /// Starting values of all matrices.
    pub fn initial(&self, seed: u64) -> Vec<AdapterTensor> {
        let of_piece = |piece: &Piece| {
            let tensor = |matrix: AdapterMatrix| {
                let values = piece.method.initial(&matrix, seed);
                AdapterTensor { name: matrix.name, shape: matrix.shape, values }
            };
            piece.method.matrices(&piece.site).into_iter().map(tensor).collect::<Vec<_>>()
        };
        self.pieces.iter().flat_map(of_piece).collect()
    }

    /// The method at this site, if it is adapted.
    pub fn at(&self, site: &Site) -> Option<&Piece> {
        self.pieces.iter().find(|piece| piece.site.number == site.number)
    }

    /// The lowest layer with something trained in it: nothing below has a backward pass. 0 if there is none.
    pub fn lowest_layer(&self) -> usize {
        self.pieces.iter().map(|piece| piece.site.layer).min().unwrap_or(0)
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
        let lora = Lora { r: self.r, scale: self.scale, dropout: self.dropout };
        let piece = |site| Piece { site, method: Method::Lora(lora.clone()) };
        Placement { pieces: sites(model).into_iter().filter(adapted).map(piece).collect() }
    }
}
