//! Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): `y = x W^T + s (x A^T) B^T` with `s = alpha / r`.
//!
//! `W [out, in]` is frozen; `A [r, in]` and `B [out, r]` are trained. A starts uniform in `+-1/sqrt(in)`, as PEFT does, B at zero, so that
//! training starts from the base model exactly.

use crate::graph::{Graph, Origin, Rows, ShapeError, TensorType, ValueId};
use crate::model::config::ModelConfig;
use crate::ops::Random;
use crate::ops::dropout::Dropout;
use crate::ops::matmul::{Layout, Matmul};

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
}

/// The linear layers of a Llama block: path inside the block, and `[out, in]`.
pub fn block_linears(config: &ModelConfig) -> [(&'static str, [usize; 2]); 7] {
    let hidden = config.hidden_size;
    let query = config.num_attention_heads * config.head_dim;
    let key_value = config.num_key_value_heads * config.head_dim;
    let inner = config.intermediate_size;
    [
        ("self_attn.q_proj", [query, hidden]),
        ("self_attn.k_proj", [key_value, hidden]),
        ("self_attn.v_proj", [key_value, hidden]),
        ("self_attn.o_proj", [hidden, query]),
        ("mlp.gate_proj", [inner, hidden]),
        ("mlp.up_proj", [inner, hidden]),
        ("mlp.down_proj", [hidden, inner]),
    ]
}

impl LoraSpec {
    /// Is the linear layer at this path (`self_attn.q_proj`) of this block adapted?
    pub fn adapts(&self, layer: usize, path: &str) -> bool {
        let module = path.rsplit('.').next().unwrap_or(path);
        self.layers.contains(&layer) && self.target_modules.iter().any(|target| target == module)
    }

    /// All trained matrices, in the order in which they lie in memory: by layer, then as in [`block_linears`], A before B.
    pub fn tensors(&self, config: &ModelConfig) -> Vec<LoraTensor> {
        let mut tensors = Vec::new();
        for layer in 0..config.num_hidden_layers {
            for (path, [out, input]) in block_linears(config) {
                if self.adapts(layer, path) {
                    let name = |part: &str| format!("layers.{layer}.{path}.{part}");
                    tensors.push(LoraTensor { name: name("lora_a"), shape: [self.r, input] });
                    tensors.push(LoraTensor { name: name("lora_b"), shape: [out, self.r] });
                }
            }
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
#[derive(Clone, Copy, Debug)]
pub struct LoraValues {
    pub a: ValueId,
    pub b: ValueId,
    pub scale: f64,
    /// Probability, the counter that the host advances, and this layer's salt.
    pub dropout: Option<(f64, ValueId, u32)>,
}

impl LoraValues {
    /// Adds the leaves of one adapted layer to a graph.
    pub fn leaves(graph: &mut Graph, spec: &LoraSpec, name: &str, [out, input]: [usize; 2]) -> Self {
        let mut leaf = |part: &str, rows, columns| {
            graph.leaf(format!("{name}.{part}"), TensorType::f32(Rows::Fixed(rows), columns), Origin::Adapter)
        };
        Self { a: leaf("lora_a", spec.r, input), b: leaf("lora_b", out, spec.r), scale: spec.scale, dropout: None }
    }
}

/// A linear layer, adapted or not: `x W^T (+ s (x A^T) B^T) (+ addend)`. The addend is the residual, where the layer ends a block's half.
///
/// # Errors
/// A [`ShapeError`] if the weight does not fit.
pub fn linear(
    graph: &mut Graph,
    x: ValueId,
    weight: ValueId,
    adapter: Option<LoraValues>,
    addend: Option<ValueId>,
    name: &str,
) -> Result<ValueId, ShapeError> {
    let nt = |scale| Matmul { layout: Layout::NT, scale };
    let base = nt(1.0).append(graph, [x, weight], addend, name)?;
    let Some(LoraValues { a, b, scale, dropout }) = adapter else { return Ok(base) };
    let x = match dropout {
        Some((p, counter, salt)) => graph.apply_one(Dropout { p, salt }, &[x, counter], format!("{name}.dropout"))?,
        None => x,
    };
    let u = nt(1.0).append(graph, [x, a], None, format!("{name}.lora_u"))?;
    nt(scale).append(graph, [u, b], Some(base), format!("{name}.lora"))
}
