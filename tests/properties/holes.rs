//! Nothing is left out in silence: each test plants one hole, and it is an error that names it.

use crate::common::{device, graph_of, run_split};
use crate::differentiable;
use crate::sketch::*;
use graftling::autograd::{Root, backward};
use graftling::formats::ModelFiles;
use graftling::graph::{Counts, DType, Derivative, Graph, Matrix, Origin, Rows, TensorType, ValueId};
use graftling::model::graph::{Model, Part, Purpose};
use graftling::model::hook::Bare;
use graftling::model::weights::{DeviceWeights, WeightType};
use graftling::ops::add::Add;
use graftling::ops::attention::{Attention, Heads};
use graftling::ops::linear_cross_entropy::LinearCrossEntropy;
use graftling::ops::scale::Scale;
use graftling::ops::{Random, registry};
use graftling::plan::Executable;
use std::collections::HashMap;
use std::path::Path;

fn fails(graph: &mut Graph, output: ValueId, wrt: &[ValueId]) -> String {
    let seed = graph.leaf("seed", graph[output].tensor, Origin::Input);
    match backward(graph, Root::Seed(output, seed), wrt) {
        Ok(gradients) => panic!("{gradients:?} of {} without an error", graph[output].name),
        Err(error) => error.to_string(),
    }
}

/// Every op of the registry says whether it has a gradient. One that has none is an error that names it, as soon as something trained
/// lies below it; so is an input that a rule has no gradient by.
#[test]
fn a_gradient_that_there_is_not_is_an_error_that_names_the_op() {
    let mut without = Vec::new();
    for entry in registry() {
        for example in (entry.examples)(&mut Random(3)) {
            let (graph, ids, outputs) = graph_of(&example, Origin::Adapter);
            let is_loss = entry.name == "linear_cross_entropy";
            let trained = |input: &usize| graph[ids[*input]].origin == Origin::Adapter;
            let rule = differentiable(&example);
            for input in (0..ids.len()).filter(trained) {
                let has_one = matches!(example.op.derivative(), Derivative::Rule(_)) && rule.contains(&input) && !is_loss;
                let mut graph = graph.clone();
                if has_one {
                    let seed = graph.leaf("seed", graph[outputs[0]].tensor, Origin::Input);
                    assert!(
                        backward(&mut graph, Root::Seed(outputs[0], seed), &[ids[input]]).unwrap()[0].is_some(),
                        "{}",
                        entry.name
                    );
                } else {
                    let message = fails(&mut graph, outputs[0], &[ids[input]]);
                    assert!(message.starts_with(entry.name), "{message}");
                    without.push(entry.name);
                }
            }
        }
    }
    // The rows of an embedding can be trained, so it is none of them any more.
    let known = ["accumulate", "adamw", "cache_rows", "embedding_backward", "global_norm", "glu_backward", "rope", "rms_norm"];
    for expected in known.into_iter().chain(["replace_columns"]) {
        assert!(without.contains(&expected), "{expected}: {without:?}");
    }
}

/// Attention's second output has no gradient rule, nor has a loss that something else is made of.
#[test]
fn a_gradient_of_an_output_that_has_no_rule_is_an_error() {
    let mut s = Sketch::default();
    let heads = Heads::new(1, 1, 4);
    let x = s.matrix(random(1, [5, 4]));
    let (position, start) = (s.ids(&[0, 1, 2, 3, 4]), s.ids(&[0; 5]));
    let outputs = s.apply(Attention(heads), &[x, x, x, position, start]);
    let lse = s.one(Scale { factor: 2.0 }, &[outputs[1]]);
    let message = fails(&mut s.graph, lse, &[x]);
    assert!(message.contains("attention") && message.contains("output 1"), "{message}");

    let mut s = Sketch::default();
    let (h, w, one) = (s.matrix(random(1, [3, 4])), s.frozen(random(2, [7, 4])), s.frozen(Matrix::new([1, 1], vec![1.0])));
    let targets = s.ids(&[1, 2, 3]);
    for (with_gradient, nested) in [(false, false), (true, true)] {
        let loss = s.apply(LinearCrossEntropy::new(with_gradient), &[h, w, targets, one]);
        let root = if nested { s.one(Add, &[loss[0], loss[0]]) } else { loss[0] };
        let error = backward(&mut s.graph, Root::Loss(root), &[h]).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("loss") || error.op == "add", "{error}");
    }
}

/// A weight, an adapter or a state without a place on the device is an error of the plan, never a buffer of zeros.
#[test]
fn a_leaf_without_a_place_is_an_error_that_names_it() {
    for origin in [Origin::Weight, Origin::Adapter, Origin::State] {
        let tensor = TensorType::f32(Rows::Fixed(4), 4);
        let mut graph = Graph::new();
        let (x, w) = (graph.leaf("x", tensor, Origin::Input), graph.leaf("w.weight", tensor, origin));
        let y = graph.apply_one(Add, &[x, w], "y").unwrap();
        let error = Executable::new(device(), graph.clone(), &[y], HashMap::new()).err().expect("w has no place");
        assert!(error.to_string().contains("w.weight"), "{error}");
        // One that nothing uses needs none.
        let only_x = graph.apply_one(Add, &[x, x], "z").unwrap();
        assert!(Executable::new(device(), graph, &[only_x], HashMap::new()).is_ok());
    }
}

/// An input that the host forgets to write is an error of the run.
#[test]
fn an_input_that_nobody_wrote_is_an_error_that_names_it() {
    let tensor = TensorType::f32(Rows::Tokens(4), 4);
    let mut graph = Graph::new();
    let [a, b] = ["a", "b.forgotten"].map(|name| graph.leaf(name, tensor, Origin::Input));
    let y = graph.apply_one(Add, &[a, b], "y").unwrap();
    let mut executable = Executable::new(device(), graph, &[y], HashMap::new()).unwrap();
    executable.write(a, &[1.0f32; 8]);
    let counts = Counts { tokens: 2, supervised: 0 };
    let error = executable.run(&counts).unwrap_err();
    assert!(error.to_string().contains("b.forgotten"), "{error}");
    executable.run(&Counts::default()).unwrap(); // no rows, nothing to write
    executable.write(b, &[2.0f32; 8]);
    executable.run(&counts).unwrap();
    assert_eq!(executable.read(y, 8).unwrap(), [3.0; 8]);
}

/// A model whose output layer is its own, and weights that have none: the tensor is named.
#[test]
fn a_weight_that_is_not_on_the_device_is_an_error_that_names_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference/tiny/grouped_tied");
    let files = ModelFiles::open(folder.to_str().unwrap()).unwrap();
    let weights = DeviceWeights::upload(device(), &files.config, &*files.tensors, WeightType::Lossless, |_, _| {}).unwrap();
    let pinned = |tied: bool| {
        let mut architecture = files.config.clone();
        architecture.tie_word_embeddings = tied;
        let model = Model::build(&architecture, &|_| DType::F32, &mut Bare, Purpose::Evaluate, Part::Whole, 8).unwrap();
        weights.pinned(&model, &architecture).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(pinned(true), Ok(()));
    let missing = pinned(false).unwrap_err();
    assert!(missing.contains("lm_head.weight") && missing.contains("is not on the device"), "{missing}");
}

/// The tests' own runner does not paper over a part that is missing either: rows of all parts are read.
#[test]
fn every_part_of_a_split_weight_counts() {
    let mut s = Sketch::default();
    let (x, w) = (s.matrix(random(1, [3, 8])), s.frozen(random(2, [24, 8])));
    let y = s.one(graftling::ops::matmul::Matmul { layout: graftling::kernel::Layout::NT, scale: 1.0 }, &[x, w]);
    let expected = s.f64(&[y]);
    let found = run_split(&device(), &s.graph, &s.leaves, &[y], &s.counts, Some(8));
    let found = Matrix::new([3, 24], found[0].iter().map(|&x| f64::from(x)).collect());
    assert_close(&found, &expected[0], 1e-5);
}
