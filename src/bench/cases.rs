//! The kernels of a training step at the shapes of a model's layer.

use crate::Result;
use crate::architecture::Architecture;
use crate::architecture::{Role, layer_sites};
use crate::gpu::{Device, Slice};
use crate::graph::{Op, Rows, TensorType};
use crate::kernel::Layout;
use crate::ops::Random;
use crate::ops::accumulate::Accumulate;
use crate::ops::adamw::AdamW;
use crate::ops::add::Add;
use crate::ops::attention::{Attention, AttentionBackwardKeyValue, AttentionBackwardQuery, Heads};
use crate::ops::dropout::Dropout;
use crate::ops::embedding::Embedding;
use crate::ops::gather_rows::{GatherRows, ScatterRows};
use crate::ops::global_norm::GlobalNorm;
use crate::ops::glu::{Activation, Glu, GluBackward};
use crate::ops::linear_cross_entropy::{CHUNK_ROWS, LinearCrossEntropy};
use crate::ops::matmul::{Matmul, MatmulLowRank};
use crate::ops::rms_norm::{RmsNorm, RmsNormBackward};
use crate::ops::rope::Rope;
use crate::storage::{DType, encode};
use std::sync::Arc;

/// One op with inputs of certain shapes.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it computes in the model.
    pub name: String,
    /// Sizes for the table; those of a product are `m x n x k`.
    pub shape: String,
    pub op: Arc<dyn Op>,
    pub inputs: Vec<(TensorType, Fill)>,
}

/// What an input holds while it is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fill {
    /// Uniform in -1 .. 1.
    Signed,
    /// Uniform in 0 .. 1: second moments, which are squares.
    Positive,
    /// Row numbers: positions of one sequence.
    Rows,
    /// Zeros: the one segment that starts at row 0.
    Zero,
    /// Uniform below this bound: token ids.
    Below(usize),
}

/// Values that are drawn; larger matrices repeat them.
const DRAWN: usize = 1 << 16;
/// Bytes that are sent at one time.
const SENT: usize = 8 << 20;

impl Fill {
    /// Fills a slice.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn write(self, device: &Device, slice: &Slice, tensor: TensorType) -> Result<()> {
        let mut random = Random(1);
        let drawn = tensor.shape.max_elements().min(if self == Self::Rows { usize::MAX } else { DRAWN });
        let values: Vec<f32> = (0..drawn)
            .map(|at| match self {
                Self::Signed => random.uniform() as f32,
                Self::Positive => random.uniform().abs() as f32,
                Self::Rows => (at / tensor.shape.columns) as f32,
                Self::Zero => 0.0,
                Self::Below(bound) => random.below(bound) as f32,
            })
            .collect();
        let mut block = match tensor.dtype.block() {
            1 => encode(&values, tensor.dtype),
            _ => random.stored([1, drawn], 1.0, tensor.dtype).encoded(tensor.dtype, 0..1),
        };
        let bytes = tensor.max_bytes().next_multiple_of(4);
        while block.len() < SENT.min(bytes) {
            block.extend_from_within(..);
        }
        for start in (0..bytes).step_by(block.len().max(4)) {
            let part = block.len().min(bytes - start);
            block.resize(block.len().max(part), 0);
            device.write_at(slice, start, &block[..part]);
            device.flush()?;
        }
        Ok(())
    }
}

/// What the shapes of the cases follow from.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Tokens that go through the layer together.
    pub rows: usize,
    /// Storage of the frozen matrices.
    pub storage: DType,
    /// Rank of the adapters.
    pub r: usize,
    /// Bytes that one matrix may have at the most; the vocabulary is cut to fit.
    pub largest: usize,
}

/// All cases of a model, always the same number in the same order. Rows that a case has no use for (the loss takes chunks, a generated
/// token is one row) do not change it.
pub fn cases(config: &Architecture, sizes: &Sizes) -> Vec<Case> {
    let mut cases = Vec::new();
    let sites = layer_sites(config, 0);
    // Layers of one shape are measured once, under all their names.
    let mut shapes: Vec<([usize; 2], Vec<&str>)> = Vec::new();
    for site in &sites {
        let shape = [site.out_features, site.in_features];
        match shapes.iter_mut().find(|(known, _)| *known == shape) {
            Some((_, modules)) => modules.push(site.module),
            None => shapes.push((shape, vec![site.module])),
        }
    }
    let Sizes { rows, storage, r, .. } = *sizes;
    for ([out, input], modules) in &shapes {
        let modules = modules.join(", ");
        cases.push(product(&modules, Layout::NT, [rows, *out, *input], storage, false));
        cases.push(product(&format!("d {modules}"), Layout::NN, [rows, *input, *out], storage, false));
    }
    // Of the LoRA products those of the largest layer, the MLP's.
    let gate = sites.iter().find(|site| site.has(Role::Gate)).map_or([1, 1], |site| [site.out_features, site.in_features]);
    let [out, input] = gate;
    cases.push(product("LoRA u = x A^T", Layout::NT, [rows, r, input], DType::F32, false));
    cases.push(product("LoRA y + u B^T", Layout::NT, [rows, out, r], DType::F32, true));
    cases.push(product("LoRA d_u = d_y B", Layout::NN, [rows, r, out], DType::F32, false));
    cases.push(product("LoRA d_x + d_u A", Layout::NN, [rows, input, r], DType::F32, true));
    cases.push(product("LoRA d_B = d_y^T u", Layout::TN, [out, r, rows], DType::F32, false));
    cases.push(product("LoRA d_A = d_u^T x", Layout::TN, [r, input, rows], DType::F32, false));
    for (name, layout, [n, k]) in [("", Layout::NT, [out, input]), ("d ", Layout::NN, [input, out])] {
        let mut fused = product(&format!("{name}gate_proj with LoRA"), layout, [rows, n, k], storage, false);
        fused.op = Arc::new(MatmulLowRank { layout, scale: 2.0 });
        fused.inputs.extend([f32(rows, r), if layout == Layout::NT { f32(n, r) } else { f32(r, n) }]);
        cases.push(fused);
    }
    cases.extend(of_attention(config, rows));
    cases.extend(of_rows(config, rows));
    cases.extend(of_the_vocabulary(config, sizes));
    cases.extend(of_the_optimizer(config, r));
    cases.push(product("one token: gate_proj", Layout::NT, [1, out, input], storage, false));
    cases
}

fn f32(rows: usize, columns: usize) -> (TensorType, Fill) {
    (TensorType::f32(Rows::Fixed(rows), columns), Fill::Signed)
}

/// `storage`, or f32 where rows of this many columns are no whole blocks of it.
fn fitting(storage: DType, columns: usize) -> DType {
    if columns.is_multiple_of(storage.block()) { storage } else { DType::F32 }
}

fn u32(rows: usize, fill: Fill) -> (TensorType, Fill) {
    (TensorType::u32(Rows::Fixed(rows), 1), fill)
}

fn case(name: impl Into<String>, shape: String, op: impl Op + 'static, inputs: Vec<(TensorType, Fill)>) -> Case {
    Case { name: name.into(), shape, op: Arc::new(op), inputs }
}

fn product(name: &str, layout: Layout, [m, n, k]: [usize; 3], storage: DType, addend: bool) -> Case {
    let (a, b) = match layout {
        Layout::NT => ([m, k], [n, k]),
        Layout::NN => ([m, k], [k, n]),
        Layout::TN => ([k, m], [k, n]),
    };
    let storage = fitting(storage, b[1]);
    let mut inputs = vec![f32(a[0], a[1]), (TensorType::new(Rows::Fixed(b[0]), b[1], storage), Fill::Signed)];
    inputs.extend(addend.then(|| f32(m, n)));
    let name = format!("matmul {layout:?} {name}");
    case(name, format!("{m} x {n} x {k} {storage}"), Matmul { layout, scale: 1.0 }, inputs)
}

/// One causal sequence of all rows.
fn of_attention(config: &Architecture, rows: usize) -> Vec<Case> {
    let heads = Heads {
        scale: config.attention_scale,
        softcap: config.attention_softcap,
        ..Heads::new(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
    };
    let (q, k) = (f32(rows, heads.heads * heads.head_dim), f32(rows, heads.key_value_heads * heads.head_dim));
    let (position, segment_start) = (u32(rows, Fill::Rows), u32(rows, Fill::Zero));
    let shape = format!("{rows} rows, {}/{} heads x {}", heads.heads, heads.key_value_heads, heads.head_dim);
    let (query, key_value) = (AttentionBackwardQuery(heads), AttentionBackwardKeyValue(heads));
    let for_query = vec![q, k, k, q, f32(rows, heads.heads), q, segment_start];
    let for_key_value = vec![q, k, k, f32(rows, 2 * heads.heads), q, segment_start];
    vec![
        case("attention", shape.clone(), Attention(heads), vec![q, k, k, position, segment_start]),
        case("attention backward, query", shape.clone(), query, for_query),
        case("attention backward, key and value", shape, key_value, for_key_value),
    ]
}

/// What works row by row and is bound by memory.
fn of_rows(config: &Architecture, rows: usize) -> Vec<Case> {
    let (hidden, inner, eps) = (config.hidden_size, config.intermediate_size, config.rms_norm_eps);
    let (x, weight, wide) = (f32(rows, hidden), f32(1, hidden), f32(rows, inner));
    let query = config.num_attention_heads * config.head_dim;
    let rope = vec![f32(rows, query), u32(rows, Fill::Rows), f32(rows, config.head_dim)];
    let counter = (TensorType::u32(Rows::Fixed(1), 2), Fill::Zero);
    let shape = |columns: usize| format!("{rows} x {columns}");
    let activation = Activation::Silu;
    vec![
        case("rms_norm", shape(hidden), RmsNorm::new(eps), vec![x, weight]),
        case("rms_norm backward + addend", shape(hidden), RmsNormBackward(RmsNorm::new(eps)), vec![x, weight, x, x]),
        case("rope", shape(query), Rope::new(config.head_dim), rope),
        case("glu", shape(inner), Glu { activation }, vec![wide, wide]),
        case("glu backward", shape(inner), GluBackward { activation }, vec![wide, wide, wide]),
        case("add", shape(hidden), Add, vec![x, x]),
        case("dropout", shape(hidden), Dropout { p: 0.1, salt: 0 }, vec![x, counter]),
        case("gather_rows", shape(hidden), GatherRows, vec![x, u32(rows, Fill::Rows)]),
        case("scatter_rows", shape(hidden), ScatterRows { rows: Rows::Fixed(rows) }, vec![x, u32(rows, Fill::Rows)]),
    ]
}

fn of_the_vocabulary(config: &Architecture, sizes: &Sizes) -> Vec<Case> {
    let Sizes { rows, storage, largest, .. } = *sizes;
    let hidden = config.hidden_size;
    let storage = fitting(storage, hidden);
    let vocabulary = config.vocab_size.min((largest / storage.bytes(hidden)).max(128) / 128 * 128);
    let matrix = (TensorType::new(Rows::Fixed(vocabulary), hidden, storage), Fill::Signed);
    let chunk = rows.min(CHUNK_ROWS);
    let loss = LinearCrossEntropy::new(true);
    let of_loss = vec![f32(chunk, hidden), matrix, u32(chunk, Fill::Below(vocabulary)), f32(1, 1)];
    let shape = |rows: usize| format!("{rows} x {vocabulary} x {hidden} {storage}");
    vec![
        case("embedding", shape(rows), Embedding, vec![u32(rows, Fill::Below(vocabulary)), matrix]),
        product("logits", Layout::NT, [chunk, vocabulary, hidden], storage, false),
        product("d logits", Layout::NN, [chunk, hidden, vocabulary], storage, false),
        case("linear_cross_entropy", shape(chunk), loss, of_loss),
        product("one token: logits", Layout::NT, [1, vocabulary, hidden], storage, false),
    ]
}

/// The optimizer over the adapters of all layers.
fn of_the_optimizer(config: &Architecture, r: usize) -> Vec<Case> {
    let a_layer: usize = layer_sites(config, 0).iter().map(|site| site.lora_parameters(r) as usize).sum();
    let elements = config.num_hidden_layers * a_layer;
    let (row, moment) = (f32(1, elements), (f32(1, elements).0, Fill::Positive));
    let hyper = (TensorType::f32(Rows::Fixed(1), 8), Fill::Positive);
    let adamw = vec![row, row, row, moment, (TensorType::f32(Rows::Fixed(1), 1), Fill::Positive), hyper];
    let shape = format!("{elements} parameters");
    vec![
        case("accumulate", shape.clone(), Accumulate, vec![row, row]),
        case("global_norm", shape.clone(), GlobalNorm, vec![row]),
        case("adamw", shape, AdamW, adamw),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::known;

    /// Inputs fit their ops for every model and any number of rows, and the list does not change with the rows.
    #[test]
    fn every_case_is_sound() {
        for (_, config) in known::configs().unwrap() {
            let of = |rows, storage| cases(&config, &Sizes { rows, storage, r: 8, largest: 64 << 20 });
            let all = DType::WEIGHTS.map(|storage| of(512, storage).into_iter().zip(of(32, storage)));
            for (case, shorter) in all.into_iter().flatten() {
                let types: Vec<TensorType> = case.inputs.iter().map(|(tensor, _)| *tensor).collect();
                let outputs = case.op.infer(&types);
                assert!(outputs.is_ok(), "{}: {outputs:?}", case.name);
                assert_eq!(case.name, shorter.name);
                let of_vocabulary = ["logits", "embedding", "entropy"].iter().any(|part| case.name.contains(part));
                assert!(!of_vocabulary || types.iter().all(|tensor| tensor.max_bytes() <= 64 << 20), "{types:?}");
            }
        }
    }

    #[test]
    fn each_linear_layer_of_a_block_is_there_forward_and_backward() {
        let (_, config) = known::configs().unwrap().remove(0);
        let all = cases(&config, &Sizes { rows: 512, storage: DType::F32, r: 8, largest: usize::MAX });
        for module in ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] {
            for layout in ["matmul NT", "matmul NN d "] {
                let of_module = |case: &&Case| case.name.starts_with(layout) && case.name.contains(module);
                assert!(all.iter().any(|case| of_module(&case)), "{layout} {module}");
            }
        }
        assert!(all.iter().any(|case| case.shape == "512 x 1536 x 576 f32"));
    }
}
