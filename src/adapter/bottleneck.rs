//! Bottleneck adapters: a small network of two trained matrices beside what attention or the MLP gives, as AdapterHub has them.
//!
//! `y = h + s (f(x D^T + d) U^T + u)`
//!
//! `h [tokens, hidden]` is what attention or the MLP gives, and y stands for it: the residual r, what entered that half of the block, is added
//! to y as it would be to h. `D [size, hidden]`, `d`, `U [hidden, size]` and `u` are trained; f is a [`NonLinearity`]. What goes in is the
//! [`Input`]:
//!
//! | x | | |
//! |---|---|---|
//! | h | sequential, after attention and after the MLP | Houlsby et al. 2019, arXiv 1902.00751 |
//! | h + r | sequential, after the MLP and its residual | Pfeiffer et al. 2020, arXiv 2005.00247 |
//! | r | parallel, beside the MLP | He et al. 2021, arXiv 2110.04366 |
//!
//! Where a family has a norm after attention or MLP, y goes through it as h would. Between the matrices stands f, so that no weight of the
//! model can take the adapter in: it stays beside the base. With dropout, what is added to h is dropped, in training.

use super::lora::{normal, stream};
use super::method::{AdapterMatrix, Adapting, Leaves, Method};
use super::placement::{Piece, Placement};
use crate::architecture::{Architecture, Norms, Role, Site, sites};
use crate::formats::adapter_hub::{BottleneckConfig, InitWeights, Input, Place};
use crate::graph::{Graph, Matrix, ShapeError, ValueId};
use crate::kernel::Layout;
use crate::model::hook::Half;
use crate::ops::Random;
use crate::ops::activate::{Activate, NonLinearity};
use crate::ops::add::Add;
use crate::ops::add_bias::AddBias;
use crate::ops::dropout::Dropout;
use crate::ops::matmul::Matmul;
use crate::ops::scale::Scale;
use crate::{Error, Result};

/// A bottleneck adapter at the layer that ends a half of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct Bottleneck {
    /// Rows of D.
    pub size: usize,
    /// f
    pub non_linearity: NonLinearity,
    /// x
    pub input: Input,
    /// s
    pub scale: f64,
    /// Probability with which an element of what is added is dropped, in training.
    pub dropout: f64,
    /// How D and U start; d and u start at zero.
    pub start: InitWeights,
}

impl Placement {
    /// What AdapterHub's configuration of bottlenecks means on this model.
    ///
    /// # Errors
    /// Bad input, at `place`: it is for a model of another width, says nothing of a layer's bottleneck, or reads the sum with the residual
    /// where the model has a norm before that sum.
    pub fn from_adapter_hub(place: &str, config: &BottleneckConfig, model: &Architecture) -> Result<Self> {
        let proposal = "use the adapter with the model that it was trained on";
        if let Some(hidden) = config.hidden_size.filter(|&hidden| hidden != model.hidden_size) {
            let problem = format!("the adapter is for a hidden size of {hidden}, and the model has {}", model.hidden_size);
            return Err(Error::bad_input(place, problem, proposal));
        }
        if !reads_sums(model) && config.input == Input::Sum {
            let problem = "original_ln_before is true, and this model has a norm after attention and MLP: the library takes that of the \
                           last layer in every layer there";
            return Err(Error::bad_input(
                place,
                problem,
                "train it anew with original_ln_before=False, or as a parallel adapter",
            ));
        }
        let mut pieces = Vec::new();
        for site in sites(model) {
            let stands = match () {
                _ if site.has(Role::AttentionOutput) => Place::Attention,
                _ if site.has(Role::Down) => Place::Mlp,
                _ => continue,
            };
            if !config.adapts(site.layer, stands) {
                continue;
            }
            if stands == Place::Mlp && model.experts_of(site.layer).is_some() {
                let problem =
                    format!("layer {} has experts, and AdapterHub has no name for a bottleneck behind them", site.layer);
                return Err(Error::bad_input(place, problem, "use LoRA, or adapt other layers"));
            }
            let size = config.reduction_factor.size(site.layer, model.hidden_size).ok_or_else(|| {
                let problem = format!("reduction_factor names neither layer {} nor a default", site.layer);
                Error::bad_input(place, problem, proposal)
            })?;
            let bottleneck = Bottleneck {
                size,
                non_linearity: config.non_linearity.non_linearity,
                input: config.input,
                scale: config.scaling,
                dropout: config.dropout,
                start: config.init_weights,
            };
            pieces.push(Piece::new(site, Method::Bottleneck(bottleneck)));
        }
        Ok(Self { pieces, ..Self::default() })
    }
}

/// Does the residual join what attention and the MLP give as it is? Else a norm stands between the two.
pub fn reads_sums(model: &Architecture) -> bool {
    model.norms == Norms::Before
}

/// D, d, U, u: how their names end.
pub const MATRICES: [&str; 4] = ["adapter_down", "adapter_down_bias", "adapter_up", "adapter_up_bias"];

impl Adapting for Bottleneck {
    /// D, d, U, u.
    fn matrices(&self, site: &Site) -> Vec<AdapterMatrix> {
        let hidden = site.out_features;
        let whole = |name, shape| AdapterMatrix::whole(site, name, shape);
        let vector = |name, size| AdapterMatrix { vector: true, ..whole(name, [size, 1]) };
        let [down, down_bias, up, up_bias] = MATRICES;
        vec![
            whole(down, [self.size, hidden]),
            vector(down_bias, self.size),
            whole(up, [hidden, self.size]),
            vector(up_bias, hidden),
        ]
    }

    fn initial(&self, matrix: &AdapterMatrix, seed: u64) -> Vec<f32> {
        let mut random = stream(&matrix.name, seed);
        let draw = |random: &mut Random| match self.start {
            InitWeights::Bert => 0.02 * normal(random),
            InitWeights::MamAdapter => random.uniform() / (matrix.shape[1] as f64).sqrt(),
            // No further from 0 than twice the deviation.
            InitWeights::Houlsby => loop {
                let drawn = normal(random);
                if drawn.abs() <= 2.0 {
                    break 0.01 * drawn;
                }
            },
        };
        let is_zero = matrix.vector || self.start == InitWeights::MamAdapter && matrix.name.ends_with(MATRICES[2]);
        (0..matrix.elements()).map(|_| if is_zero { 0.0 } else { draw(&mut random) as f32 }).collect()
    }

    fn dropout(&self) -> f64 {
        self.dropout
    }

    fn stands_alone(&self) -> bool {
        true
    }

    fn joins_half(&self) -> bool {
        true
    }

    fn after_half(&self, graph: &mut Graph, half: Half, leaves: &mut Leaves) -> std::result::Result<ValueId, ShapeError> {
        let name = |own: &str| format!("{}.{own}", half.site.name());
        let product = |scale| Matmul { layout: Layout::NT, scale };
        let [down, down_bias, up, up_bias] = [0, 1, 2, 3].map(|matrix| leaves.values[matrix][0]);
        let x = match self.input {
            Input::Output => half.output,
            Input::Sum => graph.apply_one(Add, &[half.residual, half.output], name("adapter_input"))?,
            Input::Residual => half.residual,
        };
        let inner = product(1.0).append(graph, [x, down], None, name("bottleneck"))?;
        let inner = graph.apply_one(AddBias, &[inner, down_bias], name("bottleneck.bias"))?;
        let inner = graph.apply_one(Activate(self.non_linearity), &[inner], name("bottleneck.active"))?;
        let bias = match self.scale {
            1.0 => up_bias,
            factor => graph.apply_one(Scale { factor }, &[up_bias], name("adapter.scaled_bias"))?,
        };
        let Some(counter) = leaves.dropout_counter.filter(|_| self.dropout > 0.0) else {
            let y = product(self.scale).append(graph, [inner, up], Some(half.output), name("adapter"))?;
            return graph.apply_one(AddBias, &[y, bias], name("adapter.bias"));
        };
        let added = product(self.scale).append(graph, [inner, up], None, name("adapter"))?;
        let added = graph.apply_one(AddBias, &[added, bias], name("adapter.bias"))?;
        let dropout = Dropout { p: self.dropout, salt: half.site.number as u32 };
        let added = graph.apply_one(dropout, &[added, counter], name("adapter.dropout"))?;
        graph.apply_one(Add, &[half.output, added], name("adapter.sum"))
    }

    fn cannot_merge(&self) -> Option<&'static str> {
        Some(
            "is a bottleneck adapter: between its two matrices stands a non-linearity, so that no weight can take it in, and neither llama.cpp nor MLX has a place for it",
        )
    }

    fn merged(&self, _: &Matrix, _: &[Matrix]) -> Option<Matrix> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(start: InitWeights, own: &str) -> Vec<f64> {
        let adapter =
            Bottleneck { size: 64, non_linearity: NonLinearity::Relu, input: Input::Output, scale: 1.0, dropout: 0.0, start };
        let vector = own.ends_with("bias");
        let shape = if vector { [64, 1] } else { [64, 256] };
        let name = format!("layers.0.mlp.down_proj.{own}");
        let matrix = AdapterMatrix { name, shape, parts: vec![64], vector, trained: true, rate: 1.0, start_follows: false };
        adapter.initial(&matrix, 3).into_iter().map(f64::from).collect()
    }

    fn deviation(values: &[f64]) -> f64 {
        (values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64).sqrt()
    }

    /// AdapterHub's three ways to start; 16,384 values settle a deviation to about half a percent.
    #[test]
    fn starts_have_the_spread_of_adapter_hub() {
        assert!((deviation(&drawn(InitWeights::Bert, "adapter_down")) / 0.02 - 1.0).abs() < 0.03);
        assert!((deviation(&drawn(InitWeights::Bert, "adapter_up")) / 0.02 - 1.0).abs() < 0.03);
        let uniform = drawn(InitWeights::MamAdapter, "adapter_down");
        assert!(uniform.iter().all(|value| value.abs() <= 1.0 / 16.0));
        assert!((deviation(&uniform) * 16.0 * 3f64.sqrt() - 1.0).abs() < 0.03);
        assert!(drawn(InitWeights::MamAdapter, "adapter_up").iter().all(|value| *value == 0.0));
        // A normal distribution cut at two deviations has 0.880 of the deviation.
        let cut = drawn(InitWeights::Houlsby, "adapter_up");
        assert!(cut.iter().all(|value| value.abs() <= 0.02 + 1e-9) && (deviation(&cut) / 0.0088 - 1.0).abs() < 0.03);
        for start in [InitWeights::Bert, InitWeights::MamAdapter, InitWeights::Houlsby] {
            assert!(drawn(start, "adapter_down_bias").iter().all(|value| *value == 0.0));
        }
    }
}
