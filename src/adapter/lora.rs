//! Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): `y = x W^T + s (x A^T) B^T` with `s = alpha / r`.
//!
//! `W [out, in]` is frozen; `A [r, in]` and `B [out, r]` are trained. A starts uniform in `+-1/sqrt(in)`, as PEFT does, B at zero, so that
//! training starts from the base model exactly.

use crate::architecture::{Architecture, Site, sites};
use crate::graph::{Graph, Origin, Rows, ShapeError, TensorType, ValueId};
use crate::kernel::Layout;
use crate::ops::Random;
use crate::ops::dropout::Dropout;
use crate::ops::matmul::Matmul;

/// Which linear layers are adapted, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraSpec {
    /// Rank.
    pub r: usize,
    /// `s`: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA.
    pub scale: f64,
    /// Probability with which an element of x is dropped on the adapter's path, in training.
    pub dropout: f64,
    /// `q_proj`, `down_proj`, ...
    pub target_modules: Vec<String>,
    /// Adapted layers, ascending.
    pub layers: Vec<usize>,
}

/// One trained matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraTensor {
    /// `layers.3.self_attn.q_proj.lora_a` (or `.lora_b`).
    pub name: String,
    /// A `[r, in]`, B `[out, r]`.
    pub shape: [usize; 2],
    /// Rows of the parts that the graph takes apart, which B has where a layer fuses several; one part otherwise.
    pub parts: Vec<usize>,
}

impl LoraSpec {
    /// Is this linear layer adapted?
    pub fn adapts(&self, site: &Site) -> bool {
        self.layers.contains(&site.layer) && self.target_modules.iter().any(|target| target == site.module)
    }

    /// All trained matrices, in the order in which they lie in memory: by layer, then as in [`sites`], A before B.
    pub fn tensors(&self, model: &Architecture) -> Vec<LoraTensor> {
        let mut tensors = Vec::new();
        for site in sites(model).into_iter().filter(|site| self.adapts(site)) {
            let name = |matrix: &str| format!("{}.{matrix}", site.name());
            tensors.push(LoraTensor { name: name("lora_a"), shape: [self.r, site.in_features], parts: vec![self.r] });
            let parts = site.outputs.iter().map(|(_, rows)| *rows).collect();
            tensors.push(LoraTensor { name: name("lora_b"), shape: [site.out_features, self.r], parts });
        }
        tensors
    }

    /// Starting values of a matrix, row-major; those of A follow from the seed and the matrix's name alone, so that they do not
    /// depend on which other modules are adapted.
    pub fn initial(&self, tensor: &LoraTensor, seed: u64) -> Vec<f32> {
        let count = tensor.shape[0] * tensor.shape[1];
        if tensor.name.ends_with("lora_b") {
            return vec![0.0; count];
        }
        let bound = 1.0 / (tensor.shape[1] as f64).sqrt();
        // FNV-1a of the name, so that every matrix has its own stream.
        let salt = tensor
            .name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let mut random = Random(seed ^ salt);
        (0..count).map(|_| (random.uniform() * bound) as f32).collect()
    }
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
    /// Adds the leaves of one adapted layer to a graph.
    pub fn leaves(graph: &mut Graph, spec: &LoraSpec, site: &Site) -> Self {
        let name = site.name();
        let mut leaf =
            |name: String, rows, columns| graph.leaf(name, TensorType::f32(Rows::Fixed(rows), columns), Origin::Adapter);
        let a = leaf(format!("{name}.lora_a"), spec.r, site.in_features);
        let whole = site.outputs.len() == 1;
        let part = |(index, (_, rows)): (usize, &(_, usize))| {
            let part = if whole { String::new() } else { format!(".{index}") };
            leaf(format!("{name}.lora_b{part}"), *rows, spec.r)
        };
        let b = site.outputs.iter().enumerate().map(part).collect();
        Self { a, b, scale: spec.scale, dropout: None }
    }

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
