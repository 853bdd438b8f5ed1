//! What a method of adaptation is: the matrices that it has at a linear layer, how they start, and how they enter the graph and the
//! weight. One file a method; to the rest of the program they are all the same.

use super::bottleneck::Bottleneck;
use super::dora::Dora;
use super::lora::Lora;
use crate::architecture::Site;
use crate::formats::peft::AdapterTensor;
use crate::graph::{Graph, Matrix, Op, ShapeError, TensorType, ValueId};
use crate::model::hook::{Half, Linear};
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
        let parts = site.outputs.iter().map(|(_, rows)| site.matrices() * rows).collect();
        Self { parts, ..Self::whole(site, own_name, [site.matrices() * site.out_features, columns]) }
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

/// What a method does at one linear layer, or with what the layer ends.
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

    /// Does it stand behind a half of the block, [`Adapting::after_half`], and not at the linear layer itself, [`Adapting::forward`]?
    fn joins_half(&self) -> bool {
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
    fn forward(&self, _graph: &mut Graph, linear: Linear, _leaves: &mut Leaves) -> Result<Vec<ValueId>, ShapeError> {
        Ok(linear.outputs)
    }

    /// What stands for the output of the half of a block that the layer ends, where the method [joins it](Adapting::joins_half).
    ///
    /// # Errors
    /// A [`ShapeError`] if the matrices do not fit.
    fn after_half(&self, _graph: &mut Graph, half: Half, _leaves: &mut Leaves) -> Result<ValueId, ShapeError> {
        Ok(half.output)
    }

    /// Why no weight can take the method in, as the end of a sentence about an adapter; `None` if one can.
    fn cannot_merge(&self) -> Option<&'static str> {
        None
    }

    /// The weight `[out, in]` with the method in it, in f64: what a merged model has. `matrices` as [`Adapting::matrices`]. `None` where that
    /// [cannot be](Adapting::cannot_merge).
    fn merged(&self, weight: &Matrix, matrices: &[Matrix]) -> Option<Matrix>;
}

/// A method with its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    Lora(Lora),
    Dora(Dora),
    Bottleneck(Bottleneck),
}

impl Method {
    /// The low-rank part of LoRA and DoRA.
    pub fn lora(&self) -> Option<&Lora> {
        match self {
            Self::Lora(lora) => Some(lora),
            Self::Dora(dora) => Some(&dora.lora),
            Self::Bottleneck(_) => None,
        }
    }

    pub(super) fn lora_mut(&mut self) -> Option<&mut Lora> {
        match self {
            Self::Lora(lora) => Some(lora),
            Self::Dora(dora) => Some(&mut dora.lora),
            Self::Bottleneck(_) => None,
        }
    }

    /// Rank of LoRA and DoRA, width of a bottleneck.
    pub fn width(&self) -> usize {
        match self {
            Self::Bottleneck(bottleneck) => bottleneck.size,
            Self::Lora(lora) | Self::Dora(Dora { lora, .. }) => lora.r,
        }
    }

    /// Multiplies what it does to the layer: the scale of LoRA or a bottleneck, or how far DoRA goes from the frozen layer to the adapted one.
    pub fn multiply(&mut self, strength: f64) {
        match self {
            Self::Lora(lora) => lora.scale *= strength,
            Self::Dora(dora) => dora.strength *= strength,
            Self::Bottleneck(bottleneck) => bottleneck.scale *= strength,
        }
    }

    /// Drops nothing any more.
    pub(super) fn stop_dropout(&mut self) {
        match self {
            Self::Lora(lora) | Self::Dora(Dora { lora, .. }) => lora.dropout = 0.0,
            Self::Bottleneck(bottleneck) => bottleneck.dropout = 0.0,
        }
    }

    /// Why the two cannot be used together at one layer; `None` if they can.
    pub(super) fn conflict(&self, other: &Self) -> Option<&'static str> {
        match (self, other) {
            (Self::Bottleneck(_), Self::Bottleneck(_)) => {
                Some("is met by another bottleneck adapter, and which comes first would be another model")
            }
            (Self::Bottleneck(_), _) | (_, Self::Bottleneck(_)) | (Self::Lora(_), Self::Lora(_)) => None,
            _ => Some("has a DoRA adapter, which cannot be used with another adapter of this layer"),
        }
    }
}

impl std::ops::Deref for Method {
    type Target = dyn Adapting;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Lora(lora) => lora,
            Self::Dora(dora) => dora,
            Self::Bottleneck(bottleneck) => bottleneck,
        }
    }
}
