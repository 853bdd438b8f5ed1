//! Laws that every op obeys, here and in `values`, `variants` and `wrong_shapes`: the registry is walked, so an op is tested by being
//! registered. The other modules hold the laws of single ops and of graphs, with proptest.

#[path = "../common/mod.rs"]
mod common;

mod adapters;
mod attention;
mod experts;
mod holes;
mod random_graphs;
mod rows;
mod sketch;
mod training;
mod values;
mod variants;
mod wrong_shapes;

use common::{device, graph_of, relative_distance, run_on_device};
use graftling::autograd::{Root, backward};
use graftling::graph::{DType, Derivative, Matrix, Origin, ValueId};
use graftling::ops::linear_cross_entropy::LinearCrossEntropy;
use graftling::ops::rms_norm::RmsNorm;
use graftling::ops::{Example, OpEntry, Random, registry};
use graftling::reference;
use std::collections::HashMap;

const SEED: u64 = 20;

/// All ops, or those that the environment names: `GRAFTLING_TEST_OPS=matmul_experts,route`, for whoever works on one.
pub fn entries() -> Vec<OpEntry> {
    let wanted = std::env::var("GRAFTLING_TEST_OPS").ok();
    let is_wanted = |entry: &OpEntry| wanted.as_ref().is_none_or(|names| names.split(',').any(|name| name == entry.name));
    registry().into_iter().filter(is_wanted).collect()
}

fn leaves_of(example: &Example, ids: &[ValueId]) -> Vec<(ValueId, Matrix)> {
    ids.iter().copied().zip(example.inputs.iter().map(|(_, matrix)| matrix.clone())).collect()
}

/// GPU = f64 reference within the op's bound; two runs are bitwise equal; nothing is written outside the outputs.
#[test]
fn kernels_equal_their_reference() {
    for entry in entries() {
        for (number, example) in (entry.examples)(&mut Random(SEED)).into_iter().enumerate() {
            let (graph, ids, outputs) = graph_of(&example, Origin::Input);
            let leaves = leaves_of(&example, &ids);
            let expected = reference::run(&graph, leaves.iter().cloned().collect(), &example.counts);
            let first = run_on_device(&graph, &leaves, &outputs, &example.counts);
            let second = run_on_device(&graph, &leaves, &outputs, &example.counts);
            for (index, output) in outputs.iter().enumerate() {
                let distance = relative_distance(&first[index], &expected[output].data);
                let bound = (entry.tolerance)(&example);
                assert!(
                    distance <= bound,
                    "{} example {number} output {index}: {distance:e} > {bound:e}\n{:?}",
                    entry.name,
                    example.op
                );
                let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&first[index]), bits(&second[index]), "{} example {number}: two runs differ", entry.name);
            }
        }
    }
}

/// The inputs by which an op has a gradient: all of f32 but those that its documentation calls frozen, and none of attention to a cache,
/// which is generation.
pub fn differentiable(example: &Example) -> Vec<usize> {
    if example.op.name() == "attention" && example.inputs[0].0.shape.rows != example.inputs[1].0.shape.rows {
        return Vec::new();
    }
    let op: &dyn std::any::Any = &*example.op;
    let trains_matrix = op.downcast_ref::<LinearCrossEntropy>().is_some_and(|loss| loss.trains_matrix);
    // Of each head, it has no gradient.
    let norm = op.downcast_ref::<RmsNorm>().is_some_and(|norm| norm.groups == 1);
    let frozen = |input: usize| match (example.op.name(), input) {
        ("rms_norm", 1) => !norm,
        ("linear_cross_entropy", 1) => !trains_matrix,
        (name, input) => {
            matches!((name, input), ("rope", 2) | ("linear_cross_entropy", 3) | ("attention", 5) | ("add_expert_bias", 1))
        }
    };
    let is_f32 = |input: &usize| example.inputs[*input].0.dtype == DType::F32;
    (0..example.inputs.len()).filter(is_f32).filter(|&input| !frozen(input)).collect()
}

/// The gradient rule, run in f64, agrees with central differences of the reference (PyTorch gradcheck's bounds: eps 1e-6, atol 1e-5,
/// rtol 1e-3), and the GPU's gradient agrees with the f64 gradient within ten times the op's forward bound (design section 9).
#[test]
fn gradients_equal_finite_differences() {
    for entry in entries() {
        for (number, example) in (entry.examples)(&mut Random(SEED)).into_iter().enumerate() {
            let (mut graph, ids, outputs) = graph_of(&example, Origin::Adapter);
            let is_loss = example.op.name() == "linear_cross_entropy";
            // `holes` is about these, and about the loss of evaluation.
            if matches!(example.op.derivative(), Derivative::None(_)) || (is_loss && outputs.len() < 3) {
                continue;
            }
            let wrt: Vec<ValueId> = differentiable(&example).into_iter().map(|input| ids[input]).collect();
            if wrt.is_empty() {
                continue;
            }
            let mut random = Random(SEED + number as u64);
            let seed_shape = graph[outputs[0]].tensor.shape.resolve(&example.counts);
            let seed = if is_loss { Matrix::new([1, 1], vec![1.0]) } else { random.matrix(seed_shape, 1.0) };
            let mut leaves = leaves_of(&example, &ids);
            let root = if is_loss {
                Root::Loss(outputs[0])
            } else {
                let id = graph.leaf("seed", graph[outputs[0]].tensor, Origin::Input);
                leaves.push((id, seed.clone()));
                Root::Seed(outputs[0], id)
            };
            let forward_nodes = graph.nodes().len();
            let gradients = backward(&mut graph, root, &wrt).unwrap_or_else(|error| panic!("{error}"));
            let of =
                |(&leaf, gradient): (&ValueId, Option<ValueId>)| (leaf, gradient.expect("every output depends on every input"));
            let given: Vec<(ValueId, ValueId)> = wrt.iter().zip(gradients).map(of).collect();
            assert!(graph.nodes().len() >= forward_nodes);
            let values = reference::run(&graph, leaves.iter().cloned().collect(), &example.counts);

            let (forward, _, _) = graph_of(&example, Origin::Adapter);
            let objective = |leaves: &HashMap<ValueId, Matrix>| -> f64 {
                let out = &reference::run(&forward, leaves.clone(), &example.counts)[&outputs[0]];
                out.data.iter().zip(&seed.data).map(|(value, weight)| value * weight).sum()
            };
            let mut point: HashMap<ValueId, Matrix> = leaves_of(&example, &ids).into_iter().collect();
            for &(leaf, gradient) in &given {
                for _ in 0..6 {
                    let at = random.below(point[&leaf].data.len());
                    let centre = point[&leaf].data[at];
                    let eps = 1e-6 * centre.abs().max(1.0);
                    let mut probe = |value: f64| {
                        point.get_mut(&leaf).unwrap().data[at] = value;
                        objective(&point)
                    };
                    let (above, below) = (probe(centre + eps), probe(centre - eps));
                    probe(centre);
                    let numeric = (above - below) / (2.0 * eps);
                    let analytic = values[&gradient].data[at];
                    assert!(
                        (numeric - analytic).abs() <= 1e-5 + 1e-3 * numeric.abs(),
                        "{} example {number}: d_{} at {at}: {analytic} by rule, {numeric} by differences",
                        entry.name,
                        graph[leaf].name
                    );
                }
            }

            let wanted: Vec<ValueId> =
                given.iter().map(|(_, gradient)| *gradient).filter(|id| matches!(graph[*id].origin, Origin::Node(..))).collect();
            let on_device = run_on_device(&graph, &leaves, &wanted, &example.counts);
            for (gradient, found) in wanted.iter().zip(on_device) {
                let distance = relative_distance(&found, &values[gradient].data);
                let bound = 10.0 * (entry.tolerance)(&example);
                assert!(distance <= bound, "{} example {number}: `{}` is {distance:e} off", entry.name, graph[*gradient].name);
            }
        }
    }
}

/// Each kernel's interface is what the host declares, and the device of this test compiles it.
#[test]
fn kernels_match_their_declarations() {
    for kernel in registry().into_iter().flat_map(|entry| entry.kernels) {
        let interface = graftling::kernel::reflect::interface(kernel).unwrap();
        assert!(interface.bindings.len() <= 9, "{}: more than 8 storage buffers, WebGPU's default limit", kernel.name);
        if kernel.needs.met_by(&device().facts) {
            device().pipeline(kernel, &[]).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// How many random cases a law is tried on: `usual` ones, always the same, unless the environment says `PROPTEST_CASES=1000` or
/// `PROPTEST_RNG_SEED=7`.
pub fn cases(usual: u32) -> proptest::test_runner::Config {
    use proptest::test_runner::{Config, RngSeed};
    let given = Config::default();
    let is_set = |name: &str| std::env::var_os(name).is_some();
    Config {
        cases: if is_set("PROPTEST_CASES") { given.cases } else { usual },
        rng_seed: if is_set("PROPTEST_RNG_SEED") { given.rng_seed } else { RngSeed::Fixed(SEED) },
        failure_persistence: None,
        ..given
    }
}
