//! Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): `y = x W^T + s (x A^T) B^T` with `s = alpha / r`.
//!
//! `W [out, in]` is frozen; `A [r, in]` and `B [out, r]` are trained. A starts uniform in `+-1/sqrt(in)`, as PEFT does, B at zero, so that
//! training starts from the base model exactly. Merged, the weight is `W + s B A`.

use super::method::{AdapterMatrix, Adapting, Leaves};
use super::start::{Start, orthogonal};
use crate::architecture::Site;
use crate::graph::{Graph, Matrix, ShapeError, ValueId};
use crate::kernel::Layout;
use crate::model::hook::Linear;
use crate::ops::Random;
use crate::ops::add_bias::AddBias;
use crate::ops::dropout::Dropout;
use crate::ops::matmul::{Matmul, MatmulExperts};
use crate::ops::scale::Scale;

/// LoRA at one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// Rank.
    pub r: usize,
    /// `s`: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA.
    pub scale: f64,
    /// Probability with which an element of x is dropped on the adapter's path, in training.
    pub dropout: f64,
    /// Learning rate of B, as a multiple of that of A: LoRA+ (Hayou et al. 2024, arXiv 2402.12354).
    pub b_rate: f64,
    /// How A and B start.
    pub start: Start,
    /// A bias beside B, which is read from files and not trained: `y += s bias`.
    pub has_bias: bool,
}

impl Lora {
    /// A fresh one: no dropout, one learning rate, A random and B zero.
    pub fn new(r: usize, scale: f64) -> Self {
        Self { r, scale, dropout: 0.0, b_rate: 1.0, start: Start::Uniform, has_bias: false }
    }

    /// The matrices as values of a graph, with the factor of the layer in the scale.
    pub(super) fn values(&self, linear: &Linear, leaves: &Leaves) -> LoraValues {
        LoraValues {
            a: leaves.values[0][0],
            b: leaves.values[1].clone(),
            offsets: linear.offsets,
            scale: self.scale * linear.factor,
            dropout: leaves
                .dropout_counter
                .filter(|_| self.dropout > 0.0)
                .map(|counter| (self.dropout, counter, linear.site.number as u32)),
        }
    }
}

impl Adapting for Lora {
    /// A, B, and what is not trained: A and B as they started, where the base has lost their product, or the bias.
    fn matrices(&self, site: &Site) -> Vec<AdapterMatrix> {
        let start_follows = self.start.changes_the_base();
        // Of all experts, one below the other.
        let rows = site.matrices() * self.r;
        let a = |name| AdapterMatrix { start_follows, ..AdapterMatrix::whole(site, name, [rows, site.in_features]) };
        let b = |name| AdapterMatrix { start_follows, ..AdapterMatrix::by_outputs(site, name, self.r) };
        let frozen = |matrix| AdapterMatrix { trained: false, ..matrix };
        let mut matrices = vec![a("lora_a"), AdapterMatrix { rate: self.b_rate, ..b("lora_b") }];
        if self.start.is_taken_out() {
            matrices.extend([frozen(a("lora_a0")), frozen(b("lora_b0"))]);
        }
        if self.has_bias {
            matrices.push(frozen(AdapterMatrix::vector(site, "lora_b_bias")));
        }
        matrices
    }

    fn initial(&self, matrix: &AdapterMatrix, seed: u64) -> Vec<f32> {
        let mut random = stream(&matrix.name, seed);
        match self.start {
            Start::Orthogonal => orthogonal(self.r, matrix, seed),
            Start::Eva => vec![0.0; matrix.elements()],
            _ if !matrix.name.ends_with(".lora_a") => vec![0.0; matrix.elements()],
            Start::Gaussian => (0..matrix.elements()).map(|_| (normal(&mut random) / self.r as f64) as f32).collect(),
            _ => {
                let bound = 1.0 / (matrix.shape[1] as f64).sqrt();
                (0..matrix.elements()).map(|_| (random.uniform() * bound) as f32).collect()
            }
        }
    }

    fn dropout(&self) -> f64 {
        self.dropout
    }

    fn forward(&self, graph: &mut Graph, linear: Linear, leaves: &mut Leaves) -> Result<Vec<ValueId>, ShapeError> {
        let name = linear.site.name();
        let values = self.values(&linear, leaves);
        let mut outputs = values.onto(graph, linear.x, &linear.outputs, &name)?;
        if self.start.is_taken_out() {
            let start =
                LoraValues { a: leaves.values[2][0], b: leaves.values[3].clone(), scale: -values.scale, dropout: None, ..values };
            outputs = start.onto(graph, linear.x, &outputs, &format!("{name}.start"))?;
        }
        if let Some(biases) = leaves.values.last().filter(|_| self.has_bias) {
            for (part, (output, &bias)) in outputs.iter_mut().zip(biases).enumerate() {
                let name = format!("{name}.lora_bias.{part}");
                let scaled = graph.apply_one(Scale { factor: values.scale }, &[bias], format!("{name}.scaled"))?;
                *output = graph.apply_one(AddBias, &[*output, scaled], name)?;
            }
        }
        Ok(outputs)
    }

    fn cannot_merge(&self) -> Option<&'static str> {
        self.has_bias.then_some("has biases (`lora_bias`), which no weight can take in")
    }

    fn merged(&self, weight: &Matrix, matrices: &[Matrix]) -> Option<Matrix> {
        let mut merged = Matrix::new([weight.rows, weight.columns], weight.data.clone());
        add_product(&mut merged, self.scale, &matrices[1], &matrices[0]);
        if self.start.is_taken_out() {
            add_product(&mut merged, -self.scale, &matrices[3], &matrices[2]);
        }
        Some(merged)
    }
}

/// `to += factor b a`
fn add_product(to: &mut Matrix, factor: f64, b: &Matrix, a: &Matrix) {
    for o in 0..to.rows {
        for (k, &b) in b.row(o).iter().enumerate() {
            to.row_mut(o).iter_mut().zip(a.row(k)).for_each(|(w, a)| *w += factor * b * a);
        }
    }
}

/// A number of the standard normal distribution (Box and Muller 1958).
pub(super) fn normal(random: &mut Random) -> f64 {
    // Above 0 and at most 1.
    let uniform = |random: &mut Random| 1.0 - (random.uniform() + 1.0) / 2.0;
    let (radius, angle) = ((-2.0 * uniform(random).ln()).sqrt(), std::f64::consts::TAU * uniform(random));
    radius * angle.cos()
}

/// The random numbers that belong to a matrix of this name.
pub(super) fn stream(name: &str, seed: u64) -> Random {
    // FNV-1a, so that every matrix has its own.
    let salt = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    Random(seed ^ salt)
}

/// The adapter of one linear layer, as values of a graph.
#[derive(Clone, Debug)]
pub struct LoraValues {
    pub a: ValueId,
    /// One a part of the layer.
    pub b: Vec<ValueId>,
    /// Where the rows of each expert begin in x, where it is a layer of several.
    pub offsets: Option<ValueId>,
    pub scale: f64,
    /// Probability, the counter that the host advances, and this layer's salt.
    pub dropout: Option<(f64, ValueId, u32)>,
}

impl LoraValues {
    /// Adds the low-rank term to what the frozen layer of this name gives, part by part: `base + s (x A^T) B^T`.
    ///
    /// # Errors
    /// A [`ShapeError`] if the matrices do not fit.
    pub fn onto(&self, graph: &mut Graph, x: ValueId, base: &[ValueId], name: &str) -> Result<Vec<ValueId>, ShapeError> {
        let x = self.dropped(graph, x, name)?;
        self.of_dropped(graph, x, base, name)
    }

    /// What of x goes into the low-rank term: x itself, where nothing is dropped.
    pub(super) fn dropped(&self, graph: &mut Graph, x: ValueId, name: &str) -> Result<ValueId, ShapeError> {
        match self.dropout {
            Some((p, counter, salt)) => graph.apply_one(Dropout { p, salt }, &[x, counter], format!("{name}.dropout")),
            None => Ok(x),
        }
    }

    /// [`LoraValues::onto`] for what [`LoraValues::dropped`] gives.
    pub(super) fn of_dropped(
        &self,
        graph: &mut Graph,
        x: ValueId,
        base: &[ValueId],
        name: &str,
    ) -> Result<Vec<ValueId>, ShapeError> {
        let layout = Layout::NT;
        let product = |graph: &mut Graph, scale: f64, [x, matrix]: [ValueId; 2], addend: Option<ValueId>, name: String| match self
            .offsets
        {
            None => Matmul { layout, scale }.append(graph, [x, matrix], addend, name),
            Some(offsets) => {
                let inputs: Vec<ValueId> = [x, matrix, offsets].into_iter().chain(addend).collect();
                graph.apply_one(MatmulExperts { layout, scale }, &inputs, name)
            }
        };
        let u = product(graph, 1.0, [x, self.a], None, format!("{name}.lora_u"))?;
        let part = |(index, (&b, &base)): (usize, (&ValueId, &ValueId))| {
            let part = if self.b.len() == 1 { String::new() } else { format!(".{index}") };
            product(graph, self.scale, [u, b], Some(base), format!("{name}.lora{part}"))
        };
        self.b.iter().zip(base).enumerate().map(part).collect()
    }
}
