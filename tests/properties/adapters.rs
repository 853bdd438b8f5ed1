//! Laws of low-rank adapters, and what autograd does and does not append to a model's graph.

use crate::cases;
use crate::common::{device, device_with, relative_distance, run_on_device, run_split};
use crate::sketch::*;
use graftling::adapter::{LoraValues, UniformLora};
use graftling::architecture::Architecture;
use graftling::autograd::{Root, backward};
use graftling::graph::{Counts, DType, Graph, Matrix, Origin, Rows, TensorType, ValueId};
use graftling::kernel::{Facts, Layout};
use graftling::ops::Random;
use graftling::ops::matmul::Matmul;
use graftling::ops::rope::rope_table;
use graftling::plan::fuse_adapters;
use graftling::reference;
use graftling::train::step::LossGraph;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

const SCALE: f64 = 2.0;

/// A linear layer, adapted or not: `x W^T (+ s (x A^T) B^T) (+ addend)`.
fn linear(
    graph: &mut Graph,
    x: ValueId,
    w: ValueId,
    adapter: Option<LoraValues>,
    addend: Option<ValueId>,
    name: &str,
) -> ValueId {
    let base = Matmul { layout: Layout::NT, scale: 1.0 }.append(graph, [x, w], addend, name).unwrap();
    adapter.map_or(base, |values| values.onto(graph, x, &[base], name).unwrap()[0])
}

/// `x W^T + s (x A^T) B^T (+ addend)`: handles of the sketch's x, A, B and the layer's output.
fn adapted(s: &mut Sketch, x: Matrix, w: Matrix, a: Matrix, b: Matrix, addend: Option<Matrix>) -> [ValueId; 4] {
    let [x, w, a, b] = [x, w, a, b].map(|matrix| s.matrix(matrix));
    let addend = addend.map(|matrix| s.matrix(matrix));
    let values = LoraValues { a, b: vec![b], offsets: None, scale: SCALE, dropout: None };
    let y = linear(&mut s.graph, x, w, Some(values), addend, "layer");
    [x, a, b, y]
}

/// The base layer alone.
fn base(s: &mut Sketch, x: ValueId, w: Matrix, addend: Option<Matrix>) -> ValueId {
    let w = s.matrix(w);
    let addend = addend.map(|matrix| s.matrix(matrix));
    linear(&mut s.graph, x, w, None, addend, "base")
}

proptest! {
    #![proptest_config(cases(8))]

    /// Training starts from the base model exactly: with B = 0 no bit of the output differs, and A has no gradient yet.
    #[test]
    fn a_zero_b_is_the_base_model(rows in 1usize..40, quarters in (1usize..12, 1usize..12), r in 1usize..10, seed: u64, residual: bool) {
        let (input, out) = (4 * quarters.0, 4 * quarters.1);
        let (x, w) = (random(seed, [rows, input]), random(seed ^ 1, [out, input]));
        let addend = residual.then(|| random(seed ^ 4, [rows, out]));
        let mut s = Sketch::default();
        let [x, a, b, y] = adapted(&mut s, x, w.clone(), random(seed ^ 2, [r, input]), Matrix::zeros([out, r]), addend.clone());
        let plain = base(&mut s, x, w, addend);
        let gradients = s.gradients(y, random(seed ^ 3, [rows, out]), &[a, b]);
        let found = s.gpu(&[y, plain, gradients[0], gradients[1]]);
        prop_assert_eq!(&found[0].data, &found[1].data);
        prop_assert!(found[2].data.iter().all(|&d| d == 0.0), "dA is not zero");
        prop_assert!(found[3].data.iter().any(|&d| d != 0.0), "dB is zero");
    }

    /// `W + s B A` computes what the adapted layer does; gradients are those of the formulas in the design.
    #[test]
    fn merged_equals_unmerged(rows in 1usize..20, input in 1usize..30, out in 1usize..30, r in 1usize..6, seed: u64) {
        let (x, w) = (random(seed, [rows, input]), random(seed ^ 1, [out, input]));
        let (a, b) = (random(seed ^ 2, [r, input]), random(seed ^ 3, [out, r]));
        let mut merged = w.clone();
        for o in 0..out {
            for i in 0..input {
                merged.row_mut(o)[i] += SCALE * (0..r).map(|k| b.row(o)[k] * a.row(k)[i]).sum::<f64>();
            }
        }
        let mut s = Sketch::default();
        let [x_id, a_id, b_id, y] = adapted(&mut s, x.clone(), w, a.clone(), b.clone(), None);
        let plain = base(&mut s, x_id, merged.clone(), None);
        let d_y = random(seed ^ 5, [rows, out]);
        let gradients = s.gradients(y, d_y.clone(), &[x_id, a_id, b_id]);
        let wanted = [y, plain, gradients[0], gradients[1], gradients[2]];
        let exact = s.f64(&wanted);
        prop_assert!(distance(&exact[0], &exact[1], 1.0) <= 1e-12);
        // dX = dY (W + s B A); dA = s (dY B)^T x; dB = s dY^T (x A^T)
        let product = |a: &Matrix, b: &Matrix| {
            let mut out = Matrix::zeros([a.rows, b.columns]);
            for i in 0..a.rows {
                for j in 0..b.columns {
                    out.row_mut(i)[j] = (0..a.columns).map(|k| a.row(i)[k] * b.row(k)[j]).sum();
                }
            }
            out
        };
        let times_scale = |mut matrix: Matrix| {
            matrix.data.iter_mut().for_each(|x| *x *= SCALE);
            matrix
        };
        let expected = [
            product(&d_y, &merged),
            times_scale(product(&transposed(&product(&d_y, &b)), &x)),
            times_scale(product(&transposed(&d_y), &product(&x, &transposed(&a)))),
        ];
        let on_gpu = s.gpu(&wanted);
        prop_assert!(distance(&on_gpu[0], &exact[1], 1.0) <= 1e-5);
        for (index, expected) in expected.iter().enumerate() {
            prop_assert!(distance(&exact[2 + index], expected, 1.0) <= 1e-12, "gradient {index}");
            prop_assert!(distance(&on_gpu[2 + index], expected, 1.0) <= 1e-5, "gradient {index} on the GPU");
        }
    }
}

fn config() -> Architecture {
    let json = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "num_hidden_layers": 4,
        "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 64, "tie_word_embeddings": true}"#;
    Architecture::from_json_str(json).unwrap()
}

fn loss_graph(layers: &[usize], modules: &[&str], max_tokens: usize) -> LossGraph {
    let target_modules = modules.iter().map(|&module| module.to_owned()).collect();
    let lora = UniformLora { r: 4, scale: SCALE, dropout: 0.0, target_modules, layers: layers.to_vec() };
    LossGraph::build(&config(), &|_| DType::F32, &lora.on(&config()), max_tokens).unwrap()
}

const ALL: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Nodes before autograd, which appends and changes nothing.
fn forward_nodes(graph: &LossGraph) -> usize {
    let nodes = graph.model.graph.nodes();
    1 + nodes.iter().position(|node| node.op.name() == "linear_cross_entropy").expect("the loss ends the forward pass")
}

/// Nothing that backward appends is the gradient of a frozen weight: each gradient flows on to an adapter, and each adapter has one.
#[test]
fn frozen_weights_have_no_gradient() {
    for (layers, modules) in [(&[0, 1, 2, 3][..], &ALL[..]), (&[2], &ALL[..2]), (&[1, 3], &ALL[4..])] {
        let loss = loss_graph(layers, modules, 16);
        let graph = &loss.model.graph;
        assert_eq!(loss.gradients.len(), 2 * layers.len() * modules.len());
        let distinct: HashSet<ValueId> = loss.gradients.iter().copied().collect();
        assert_eq!(distinct.len(), loss.gradients.len());
        for (adapter, gradient) in loss.leaves.trained.iter().zip(&loss.gradients) {
            assert_eq!(graph[*adapter].tensor, graph[*gradient].tensor, "{}", graph[*adapter].name);
        }
        // What no adapter's gradient is made of would be work for nothing: there is no such node after the loss.
        let mut needed: HashSet<ValueId> = distinct;
        for node in graph.nodes()[forward_nodes(&loss)..].iter().rev() {
            assert!(node.outputs.iter().any(|output| needed.contains(output)), "`{}` leads to no adapter", node.name);
            needed.extend(&node.inputs);
        }
        // And no value after the loss has a frozen matrix's name.
        for (name, _) in &loss.model.weights {
            assert!(graph.find(&format!("d_{name}")).is_none(), "there is a gradient of {name}");
        }
    }
}

/// Adapters fused into the products beside them compute what the plain graph does: three layers that share their input, as q, k and v do,
/// and one that ends in a residual. Forward and input gradient of each are one node.
#[test]
fn fused_adapters_compute_the_same() {
    let (rows, width, r) = (19, 64, 8);
    let tensor = |rows: usize| TensorType::f32(Rows::Fixed(rows), width);
    let mut graph = Graph::new();
    let mut leaves = Vec::new();
    let mut leaf = |graph: &mut Graph, name: &str, tensor: TensorType, origin| {
        let id = graph.leaf(name, tensor, origin);
        leaves.push((id, random(leaves.len() as u64, [tensor.shape.rows.max(), tensor.shape.columns])));
        id
    };
    let x = leaf(&mut graph, "x", tensor(rows), Origin::Adapter);
    let mut adapters = vec![x];
    let mut layer = |graph: &mut Graph, input, addend, name: &str| {
        let weight = leaf(graph, name, tensor(width), Origin::Weight);
        let a = leaf(graph, "a", tensor(r), Origin::Adapter);
        let b = leaf(graph, "b", TensorType::f32(Rows::Fixed(width), r), Origin::Adapter);
        adapters.extend([a, b]);
        linear(graph, input, weight, Some(LoraValues { a, b: vec![b], offsets: None, scale: SCALE, dropout: None }), addend, name)
    };
    let query = layer(&mut graph, x, None, "q");
    let key = layer(&mut graph, x, Some(query), "k");
    let value = layer(&mut graph, x, Some(key), "v");
    let y = layer(&mut graph, value, Some(x), "o");
    let seed = leaf(&mut graph, "d_y", tensor(rows), Origin::Input);
    let gradients = backward(&mut graph, Root::Seed(y, seed), &adapters).unwrap();
    let wanted: Vec<ValueId> = gradients.into_iter().flatten().chain([y]).collect();

    let fused = fuse_adapters(&graph, &wanted);
    let count = |name: &str| fused.nodes().iter().filter(|node| node.op.name() == name).count();
    // q, k and v read one x: their A's are one node, and so are the gradients of these.
    let saved = graph.nodes().len() - fused.nodes().len();
    assert_eq!((count("matmul_low_rank"), count("matmul_together"), saved), (8, 2, 8 + 2 + 2));
    let counts = Counts::default();
    let [plain, exact] = [&graph, &fused].map(|graph| reference::run(graph, leaves.iter().cloned().collect(), &counts));
    for id in &wanted {
        let distance = plain[id].data.iter().zip(&exact[id].data).fold(0.0, |worst: f64, (a, b)| worst.max((a - b).abs()));
        assert!(distance < 1e-10, "{}: {distance:e}", graph[*id].name);
    }
    // On this device and with the kernels that GPUs get; the weights whole, and in parts where they exceed a binding.
    let own = device().facts.clone();
    let of_gpus = Facts { cpu_driver: false, subgroup: None, int64: false, ..own.clone() };
    for (facts, part_rows) in [(&own, None), (&own, Some(24)), (&of_gpus, None), (&of_gpus, Some(24))] {
        let found = run_split(&device_with(facts.clone()), &fused, &leaves, &wanted, &counts, part_rows);
        for (id, found) in wanted.iter().zip(found) {
            let distance = relative_distance(&found, &exact[id].data);
            assert!(distance < 1e-5, "{} in parts of {part_rows:?}: {distance:e}", graph[*id].name);
        }
    }
}

/// Below the lowest adapted layer there is no backward, and nothing of the forward pass is kept for one.
#[test]
fn nothing_below_the_lowest_adapted_layer_has_a_backward() {
    for lowest in 0..4 {
        let layers: Vec<usize> = (lowest..4).collect();
        let loss = loss_graph(&layers, &ALL, 16);
        let graph = &loss.model.graph;
        let forward = forward_nodes(&loss);
        let below =
            |name: &str| (0..lowest).any(|layer| name.contains(&format!("layers.{layer}."))) || name.contains("embed_tokens");
        for node in &graph.nodes()[forward..] {
            assert!(!below(&node.name), "`{}` lies below layer {lowest}", node.name);
            for input in &node.inputs {
                let made_by_a_node = matches!(graph[*input].origin, Origin::Node(..));
                assert!(!(made_by_a_node && below(&graph[*input].name)), "`{}` keeps `{}`", node.name, graph[*input].name);
            }
        }
        let backward_nodes = graph.nodes().len() - forward;
        let whole =
            loss_graph(&[0, 1, 2, 3], &ALL, 16).model.graph.nodes().len() - forward_nodes(&loss_graph(&[0, 1, 2, 3], &ALL, 16));
        assert!(lowest == 0 || backward_nodes < whole, "{backward_nodes} nodes of {whole}");
    }
}

/// Values for every leaf of a loss graph: random weights, and a batch of segments packed end to end, of which every token but each
/// segment's last is supervised.
fn batch(loss: &LossGraph, segments: &[&[usize]], supervised_in_all: usize) -> (HashMap<ValueId, Matrix>, Counts) {
    let model = &loss.model;
    let mut leaves = HashMap::new();
    for (index, id) in model.weights.iter().map(|(_, id)| id).chain(&loss.leaves.trained).enumerate() {
        let shape = model.graph[*id].tensor.shape;
        leaves.insert(
            *id,
            map(&random(index as u64, [shape.rows.max(), shape.columns]), |x| 0.5 * x + f64::from(shape.rows.max() == 1)),
        );
    }
    let positions = model.graph[model.rope_tables[0]].tensor.shape.rows.max();
    let table = rope_table(&config().ropes[0].inverse_frequencies(0), 1.0, positions).into_iter().map(f64::from).collect();
    leaves.insert(model.rope_tables[0], Matrix::new([positions, config().head_dim], table));
    let (mut ids, mut position, mut start, mut rows, mut targets) = (vec![], vec![], vec![], vec![], vec![]);
    for segment in segments {
        let first = ids.len();
        for (at, &id) in segment.iter().enumerate() {
            if let Some(&next) = segment.get(at + 1) {
                rows.push(first + at);
                targets.push(next);
            }
            ids.push(id);
            position.push(at);
            start.push(first);
        }
    }
    let counts = Counts { tokens: ids.len(), supervised: rows.len() };
    let mut column = |id: ValueId, values: Vec<usize>| {
        leaves.insert(id, Matrix::new([values.len(), 1], values.into_iter().map(|value| value as f64).collect()));
    };
    let inputs = &model.inputs;
    column(inputs.input_ids, ids);
    column(inputs.position, position);
    column(inputs.segment_start, start);
    column(inputs.rows, rows);
    column(inputs.targets.unwrap(), targets);
    leaves.insert(inputs.loss_weight.unwrap(), Matrix::new([1, 1], vec![1.0 / supervised_in_all as f64]));
    (leaves, counts)
}

/// The gradients of two small batches add up to that of the large one in which both are packed, with unequal numbers of tokens:
/// exactly in f64, within rounding on the GPU.
#[test]
fn accumulation_equals_the_large_batch() {
    let mut random = Random(9);
    let sequences: Vec<Vec<usize>> = [7, 3, 12].map(|length| (0..length).map(|_| random.below(31)).collect()).into();
    let sequences: Vec<&[usize]> = sequences.iter().map(Vec::as_slice).collect();
    let loss = loss_graph(&[1, 2, 3], &ALL, 32);
    let supervised = 7 + 3 + 12 - 3;
    let wanted: Vec<ValueId> = std::iter::once(loss.loss).chain(loss.gradients.iter().copied()).collect();
    let run = |segments: &[&[usize]], on_gpu: bool| -> Vec<Matrix> {
        let (leaves, counts) = batch(&loss, segments, supervised);
        let graph = &loss.model.graph;
        if !on_gpu {
            let values = reference::run(graph, leaves, &counts);
            return wanted.iter().map(|id| values[id].clone()).collect();
        }
        let leaves: Vec<_> = leaves.into_iter().collect();
        let values = run_on_device(graph, &leaves, &wanted, &counts);
        let shape = |id: &ValueId| graph[*id].tensor.shape.resolve(&counts);
        wanted
            .iter()
            .zip(values)
            .map(|(id, values)| Matrix::new(shape(id), values.into_iter().map(f64::from).collect()))
            .collect()
    };
    let large = run(&sequences, false);
    for (on_gpu, bound) in [(false, 1e-12), (true, 1e-4)] {
        let parts = [run(&sequences[..1], on_gpu), run(&sequences[1..], on_gpu)];
        for (index, large) in large.iter().enumerate() {
            let mut sum = parts[0][index].clone();
            sum.data.iter_mut().zip(&parts[1][index].data).for_each(|(sum, x)| *sum += x);
            assert!(large.data.iter().any(|&x| x != 0.0), "{}", loss.model.graph[wanted[index]].name);
            assert_close(&sum, large, bound);
        }
    }
}
