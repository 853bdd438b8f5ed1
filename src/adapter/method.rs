//! What a method of adaptation is: the matrices that it trains at a linear layer, how they start, and how they enter the graph and the
//! weight. One file a method; to the rest of the program they are all the same.

use super::lora::Lora;
use crate::architecture::Site;
use crate::graph::{Graph, Matrix, ShapeError, ValueId};
use crate::model::hook::Linear;

/// One trained matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterMatrix {
    /// `layers.3.self_attn.q_proj.lora_a`: the site's name and the matrix's own.
    pub name: String,
    /// As in the file: LoRA's A `[r, in]`, its B `[out, r]`.
    pub shape: [usize; 2],
    /// Rows of the parts that the graph takes apart, where a layer fuses several; one part otherwise.
    pub parts: Vec<usize>,
}

impl AdapterMatrix {
    /// A matrix that the graph takes as it is.
    pub fn whole(site: &Site, own_name: &str, shape: [usize; 2]) -> Self {
        Self { name: format!("{}.{own_name}", site.name()), shape, parts: vec![shape[0]] }
    }

    /// A matrix with a row for each output of the site, of which the graph takes those of one part of the site at a time.
    pub fn by_outputs(site: &Site, own_name: &str, columns: usize) -> Self {
        let parts = site.outputs.iter().map(|(_, rows)| *rows).collect();
        Self { name: format!("{}.{own_name}", site.name()), shape: [site.out_features, columns], parts }
    }

    /// Numbers in it.
    pub fn elements(&self) -> usize {
        self.shape[0] * self.shape[1]
    }
}

/// What a method does at one linear layer.
pub trait Adapting {
    /// Its matrices, in the order in which they lie in memory.
    fn matrices(&self, site: &Site) -> Vec<AdapterMatrix>;

    /// Starting values of one of them, row-major. They follow from the seed and the matrix's name alone, so that they do not depend on
    /// what else is adapted.
    fn initial(&self, matrix: &AdapterMatrix, seed: u64) -> Vec<f32>;

    /// Probability with which an element of the layer's input is dropped on the method's path, in training.
    fn dropout(&self) -> f64;

    /// What stands for the outputs of the layer, one a part of it. `leaves`: the parts of each of [`Adapting::matrices`];
    /// `dropout_counter` where there is dropout.
    ///
    /// # Errors
    /// A [`ShapeError`] if the matrices do not fit the layer.
    fn forward(
        &self,
        graph: &mut Graph,
        linear: Linear,
        leaves: &[Vec<ValueId>],
        dropout_counter: Option<ValueId>,
    ) -> Result<Vec<ValueId>, ShapeError>;

    /// The weight `[out, in]` with the method in it, in f64: what a merged model has. `matrices` as [`Adapting::matrices`].
    fn merged(&self, weight: &Matrix, matrices: &[Matrix]) -> Matrix;
}

/// A method with its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    Lora(Lora),
}

impl std::ops::Deref for Method {
    type Target = dyn Adapting;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Lora(lora) => lora,
        }
    }
}
