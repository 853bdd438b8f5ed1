//! Weight-decomposed low-rank adaptation, DoRA (Liu et al. 2024, arXiv 2402.09353): LoRA gives the direction of each row of the weight,
//! and a trained vector its length.
//!
//! `y = (m / n) (x W^T + s (x A^T) B^T)` with `n[o] = || (W + s B A)[o, :] ||`
//!
//! `m [out]` starts as the lengths of W's rows, so that training starts from the base model. `n` follows A and B, but counts as a
//! constant when the loss is differentiated (section 4.3 of the paper), as in PEFT. Merged, the weight is `(m / n) (W + s B A)`.
//!
//! With dropout, x is dropped on the adapter's path alone, as in PEFT: with `d` for the dropped x,
//! `y = x W^T - d W^T + (m / n) (d W^T + s (d A^T) B^T)`.
//!
//! At a strength t other than 1 the layer is as far as t on the way from the frozen one to the adapted one: `(1 - t) x W^T + t y`, which
//! is the weight `W + t (W' - W)` with W' the merged one. (PEFT's `set_scale` multiplies s and leaves m as it is: its scale 0 is not the
//! base model where training has changed m.)
//!
//! The row lengths are computed from the weight as it rests on the device ([`DoraNorm`]), whatever its format.

use super::lora::Lora;
use super::method::{AdapterMatrix, Adapting, Leaves, Prepared};
use crate::architecture::Site;
use crate::graph::{Graph, Matrix, Op, Origin, ShapeError, ValueId};
use crate::kernel::Layout;
use crate::model::hook::Linear;
use crate::ops::add::Add;
use crate::ops::dora_norm::DoraNorm;
use crate::ops::matmul::Matmul;
use crate::ops::permute_columns::PermuteColumns;
use crate::ops::scale::{Scale, between};
use crate::ops::scale_columns::ScaleColumns;
use std::sync::Arc;

/// The name of m at a site.
pub const MAGNITUDE: &str = "lora_magnitude_vector";

/// DoRA at one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Dora {
    /// The direction.
    pub lora: Lora,
    /// t: how far from the frozen layer to the adapted one, 1 as trained.
    pub strength: f64,
}

impl Adapting for Dora {
    /// A, B, m.
    fn matrices(&self, site: &Site) -> Vec<AdapterMatrix> {
        let mut matrices = self.lora.matrices(site);
        // PEFT's optimizer for LoRA+ counts a vector with B.
        matrices.push(AdapterMatrix { rate: self.lora.b_rate, ..AdapterMatrix::vector(site, MAGNITUDE) });
        matrices
    }

    fn initial(&self, matrix: &AdapterMatrix, seed: u64) -> Vec<f32> {
        if matrix.vector { vec![0.0; matrix.elements()] } else { self.lora.initial(matrix, seed) }
    }

    fn dropout(&self) -> f64 {
        self.lora.dropout
    }

    fn stands_alone(&self) -> bool {
        true
    }

    fn has_constants(&self) -> bool {
        true
    }

    fn forward(&self, graph: &mut Graph, linear: Linear, leaves: &mut Leaves) -> Result<Vec<ValueId>, ShapeError> {
        let name = linear.site.name();
        let low_rank = self.lora.values(&linear, leaves);
        let product =
            |graph: &mut Graph, x, weight, name| Matmul { layout: Layout::NT, scale: 1.0 }.append(graph, [x, weight], None, name);
        // What the low-rank term is added to: the layer's product, or that of the dropped input.
        let (x, bases) = match low_rank.dropped(graph, linear.x, &name)? {
            x if x == linear.x => (x, linear.outputs.clone()),
            x => {
                let in_order = in_order(graph, x, linear.order, &format!("{name}.dropped.input"))?;
                let of_part = |(part, &weight)| product(graph, in_order, weight, format!("{name}.dropped.{part}"));
                (x, linear.weights.iter().enumerate().map(of_part).collect::<Result<_, _>>()?)
            }
        };
        let adapted = low_rank.of_dropped(graph, x, &bases, &name)?;
        let mut outputs = Vec::with_capacity(adapted.len());
        for (part, &adapted) in adapted.iter().enumerate() {
            let end = if linear.outputs.len() == 1 { String::new() } else { format!(".{part}") };
            let ratio =
                self.ratio(graph, (linear.weights[part], linear.order), leaves, part, &format!("{name}.dora_ratio{end}"))?;
            let mut y = graph.apply_one(ScaleColumns, &[adapted, ratio], format!("{name}.dora{end}"))?;
            if x != linear.x {
                let less = graph.apply_one(Scale { factor: -1.0 }, &[bases[part]], format!("{name}.dora_less{end}"))?;
                let base = graph.apply_one(Add, &[linear.outputs[part], less], format!("{name}.dora_base{end}"))?;
                y = graph.apply_one(Add, &[base, y], format!("{name}.dora_sum{end}"))?;
            }
            outputs.push(match self.strength {
                1.0 => y,
                strength => between(graph, [linear.outputs[part], y], strength, &format!("{name}.dora_part{end}"))?,
            });
        }
        Ok(outputs)
    }

    fn merged(&self, weight: &Matrix, matrices: &[Matrix]) -> Option<Matrix> {
        let mut merged = self.lora.merged(weight, &matrices[..2])?;
        for (row, m) in merged.data.chunks_mut(weight.columns).zip(&matrices[2].data) {
            let n = row.iter().map(|w| w * w).sum::<f64>().sqrt();
            row.iter_mut().for_each(|w| *w *= if n > 0.0 { m / n } else { 0.0 });
        }
        if self.strength != 1.0 {
            merged.data.iter_mut().zip(&weight.data).for_each(|(to, from)| *to = from + self.strength * (*to - from));
        }
        Some(merged)
    }
}

impl Dora {
    /// As trained.
    pub fn new(lora: Lora) -> Self {
        Self { lora, strength: 1.0 }
    }

    /// `m / n` of a part of the layer, `[1, rows]`.
    fn ratio(
        &self,
        graph: &mut Graph,
        (weight, order): (ValueId, Option<[ValueId; 2]>),
        leaves: &mut Leaves,
        part: usize,
        name: &str,
    ) -> Result<ValueId, ShapeError> {
        let b = leaves.constants[1][part];
        let a = in_order(graph, leaves.constants[0][0], order, &format!("{name}.a"))?;
        let (op, inputs, norm) = (DoraNorm { scale: self.lora.scale }, [a, weight, b], format!("{name}.norm"));
        // What is prepared follows from leaves alone.
        let inverse = match leaves.prepared.as_mut().filter(|_| order.is_none()) {
            None => graph.apply_one(op, &inputs, norm)?,
            Some(prepared) => {
                let tensor = op.infer(&inputs.map(|id| graph[id].tensor)).map_err(|error| error.at(&norm))?[0];
                let value = graph.leaf(norm, tensor, Origin::State);
                prepared.push(Prepared { value, op: Arc::new(op), inputs: inputs.into() });
                value
            }
        };
        graph.apply_one(ScaleColumns, &[leaves.values[2][part], inverse], name)
    }
}

/// `x` with its columns in the order in which those of a weight rest.
fn in_order(graph: &mut Graph, x: ValueId, order: Option<[ValueId; 2]>, name: &str) -> Result<ValueId, ShapeError> {
    match order {
        None => Ok(x),
        Some([order, inverse]) => graph.apply_one(PermuteColumns, &[x, order, inverse], name),
    }
}
