//! What a method of adaptation is: the matrices that it has at a linear layer, how they start, and how they enter the graph and the
//! weight. One file a method; to the rest of the program they are all the same.

use super::dora::Dora;
use super::lora::Lora;
use crate::architecture::Site;
use crate::formats::peft::AdapterTensor;
use crate::graph::{Graph, Matrix, Op, ShapeError, TensorType, ValueId};
use crate::model::hook::Linear;
use std::sync::Arc;

/// One matrix of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterMatrix {
    /// `layers.3.self_attn.q_proj.lora_a`: the site's name and the matrix's own.
    pub name: String,
    /// LoRA's A `[r, in]`, its B `[out, r]`; a vector is `[out, 1]`.
    pub shape: [usize; 2],
    /// Rows of the parts that the graph takes apart, where a layer fuses several; one part otherwise.
    pub parts: Vec<usize>,
    /// A vector: the graph takes it as a row `[1, rows]`, and a file has it in one dimension.
    pub vector: bool,
    /// Trained; if not, it keeps the values that it starts with.
    pub trained: bool,
    /// Its learning rate, as a multiple of the run's.
    pub rate: f64,
    /// In a file, what the matrix started with follows it, so that its rank is twice the trained one; see [`super::start`].
    pub start_follows: bool,
}

impl AdapterMatrix {
    /// A matrix that the graph takes as it is.
    pub fn whole(site: &Site, own_name: &str, shape: [usize; 2]) -> Self {
        Self::named(format!("{}.{own_name}", site.name()), shape, true)
    }

    /// A matrix with a row for each output of the site, of which the graph takes those of one part of the site at a time.
    pub fn by_outputs(site: &Site, own_name: &str, columns: usize) -> Self {
        let parts = site.outputs.iter().map(|(_, rows)| *rows).collect();
        Self { parts, ..Self::whole(site, own_name, [site.out_features, columns]) }
    }

    /// A number for each output of the site.
    pub fn vector(site: &Site, own_name: &str) -> Self {
        Self { vector: true, ..Self::by_outputs(site, own_name, 1) }
    }

    /// A matrix that belongs to no linear layer.
    pub fn named(name: String, shape: [usize; 2], trained: bool) -> Self {
        Self { name, shape, parts: vec![shape[0]], vector: false, trained, rate: 1.0, start_follows: false }
    }

    /// Numbers in it.
    pub fn elements(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Of a matrix in a file, in which its start follows: what was trained, and the start (`lora_a0`, `lora_b0`). `None` for one that is
    /// as it is in memory.
    pub fn halves(&self, in_file: &AdapterTensor) -> Option<[AdapterTensor; 2]> {
        let [rows, columns] = self.shape;
        if !self.start_follows || in_file.values.len() != 2 * self.elements() {
            return None;
        }
        let tensor = |end: &str, values| AdapterTensor { name: format!("{}{end}", self.name), shape: self.shape, values };
        match in_file.shape {
            shape if shape == [2 * rows, columns] => {
                let (trained, start) = in_file.values.split_at(self.elements());
                Some([tensor("", trained.to_vec()), tensor("0", start.to_vec())])
            }
            shape if shape == [rows, 2 * columns] => {
                let pairs = || in_file.values.chunks(2 * columns).map(|row| row.split_at(columns));
                let trained = pairs().flat_map(|(trained, _)| trained).copied().collect();
                Some([tensor("", trained), tensor("0", pairs().flat_map(|(_, start)| start).map(|b| -b).collect())])
            }
            _ => None,
        }
    }

    /// What the graph calls a part of it.
    pub fn part_name(&self, part: usize) -> String {
        if self.parts.len() == 1 { self.name.clone() } else { format!("{}.{part}", self.name) }
    }

    /// What the graph takes of a part of so many rows.
    pub fn leaf_type(&self, rows: usize) -> TensorType {
        use crate::graph::Rows::Fixed;
        if self.vector { TensorType::f32(Fixed(1), rows) } else { TensorType::f32(Fixed(rows), self.shape[1]) }
    }
}

/// The leaves of a method's matrices in a graph, each in its parts.
pub struct Leaves<'a> {
    pub values: &'a [Vec<ValueId>],
    /// The same numbers again, for what counts as a constant: nothing is differentiated by them.
    pub constants: &'a [Vec<ValueId>],
    /// Of the dropout generator, in training with dropout.
    pub dropout_counter: Option<ValueId>,
    /// Where values go that the graph takes as they are and does not compute, where it shall not; see [`Prepared`].
    pub prepared: Option<&'a mut Vec<Prepared>>,
}

/// A value of a graph that follows from weights and adapter alone. In generation it would be the same for every token, and is computed
/// once a text by a graph of its own.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The leaf that takes it.
    pub value: ValueId,
    /// What computes it, of these leaves.
    pub op: Arc<dyn Op>,
    pub inputs: Vec<ValueId>,
}

/// What a method does at one linear layer.
pub trait Adapting {
    /// Its matrices, in the order in which they lie in memory.
    fn matrices(&self, site: &Site) -> Vec<AdapterMatrix>;

    /// Starting values of one of them, row-major. They follow from the seed and the matrix's name alone, so that they do not depend on
    /// what else is adapted. What starts from the base model's weights is zero here; see [`super::start`].
    fn initial(&self, matrix: &AdapterMatrix, seed: u64) -> Vec<f32>;

    /// Probability with which an element of the layer's input is dropped on the method's path, in training.
    fn dropout(&self) -> f64;

    /// Does it need the layer's output by itself, before the residual is added?
    fn stands_alone(&self) -> bool {
        false
    }

    /// Does it need [`Leaves::constants`]?
    fn has_constants(&self) -> bool {
        false
    }

    /// What stands for the outputs of the layer, one a part of it. `leaves` are those of [`Adapting::matrices`].
    ///
    /// # Errors
    /// A [`ShapeError`] if the matrices do not fit the layer.
    fn forward(&self, graph: &mut Graph, linear: Linear, leaves: &mut Leaves) -> Result<Vec<ValueId>, ShapeError>;

    /// The weight `[out, in]` with the method in it, in f64: what a merged model has. `matrices` as [`Adapting::matrices`].
    fn merged(&self, weight: &Matrix, matrices: &[Matrix]) -> Matrix;
}

/// A method with its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    Lora(Lora),
    Dora(Dora),
}

impl Method {
    /// The low-rank part that both have.
    pub fn lora(&self) -> &Lora {
        match self {
            Self::Lora(lora) => lora,
            Self::Dora(dora) => &dora.0,
        }
    }

    pub(super) fn lora_mut(&mut self) -> &mut Lora {
        match self {
            Self::Lora(lora) => lora,
            Self::Dora(dora) => &mut dora.0,
        }
    }
}

impl std::ops::Deref for Method {
    type Target = dyn Adapting;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Lora(lora) => lora,
            Self::Dora(dora) => dora,
        }
    }
}
