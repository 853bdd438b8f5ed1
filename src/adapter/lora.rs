//! Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): `y = x W^T + s (x A^T) B^T` with `s = alpha / r`.
//!
//! `W [out, in]` is frozen; `A [r, in]` and `B [out, r]` are trained. A starts uniform in `+-1/sqrt(in)`, as PEFT does, B at zero, so that
//! training starts from the base model exactly. Merged, the weight is `W + s B A`.

use super::method::{AdapterMatrix, Adapting};
use crate::architecture::Site;
use crate::graph::{Graph, Matrix, ShapeError, ValueId};
use crate::kernel::Layout;
use crate::model::hook::Linear;
use crate::ops::Random;
use crate::ops::dropout::Dropout;
use crate::ops::matmul::Matmul;

/// LoRA at one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// Rank.
    pub r: usize,
    /// `s`: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA.
    pub scale: f64,
    /// Probability with which an element of x is dropped on the adapter's path, in training.
    pub dropout: f64,
}

impl Adapting for Lora {
    /// A, then B.
    fn matrices(&self, site: &Site) -> Vec<AdapterMatrix> {
        vec![AdapterMatrix::whole(site, "lora_a", [self.r, site.in_features]), AdapterMatrix::by_outputs(site, "lora_b", self.r)]
    }

    fn initial(&self, matrix: &AdapterMatrix, seed: u64) -> Vec<f32> {
        if matrix.name.ends_with("lora_b") {
            return vec![0.0; matrix.elements()];
        }
        let bound = 1.0 / (matrix.shape[1] as f64).sqrt();
        let mut random = stream(&matrix.name, seed);
        (0..matrix.elements()).map(|_| (random.uniform() * bound) as f32).collect()
    }

    fn dropout(&self) -> f64 {
        self.dropout
    }

    fn forward(
        &self,
        graph: &mut Graph,
        linear: Linear,
        leaves: &[Vec<ValueId>],
        dropout_counter: Option<ValueId>,
    ) -> Result<Vec<ValueId>, ShapeError> {
        let values = LoraValues {
            a: leaves[0][0],
            b: leaves[1].clone(),
            scale: self.scale * linear.factor,
            dropout: dropout_counter.map(|counter| (self.dropout, counter, linear.site.number as u32)),
        };
        values.onto(graph, linear.x, &linear.outputs, &linear.site.name())
    }

    fn merged(&self, weight: &Matrix, matrices: &[Matrix]) -> Matrix {
        let (a, b) = (&matrices[0], &matrices[1]);
        let mut merged = Matrix::new([weight.rows, weight.columns], weight.data.clone());
        for o in 0..weight.rows {
            for (k, &b) in b.row(o).iter().enumerate() {
                let factor = self.scale * b;
                merged.row_mut(o).iter_mut().zip(a.row(k)).for_each(|(w, a)| *w += factor * a);
            }
        }
        merged
    }
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
        let nt = |scale| Matmul { layout: Layout::NT, scale };
        let x = match self.dropout {
            Some((p, counter, salt)) => graph.apply_one(Dropout { p, salt }, &[x, counter], format!("{name}.dropout"))?,
            None => x,
        };
        let u = nt(1.0).append(graph, [x, self.a], None, format!("{name}.lora_u"))?;
        let part = |(index, (&b, &base)): (usize, (&ValueId, &ValueId))| {
            let part = if self.b.len() == 1 { String::new() } else { format!(".{index}") };
            nt(self.scale).append(graph, [u, b], Some(base), format!("{name}.lora{part}"))
        };
        self.b.iter().zip(base).enumerate().map(part).collect()
    }
}
