//! Bottleneck adapters as AdapterHub's library writes them: what it computes with them, five of its AdamW steps, and what it goes on to say.

use super::adapters::Case;
use super::*;
use graftling::adapter::{AdapterLayout, LoadedAdapter};
use graftling::formats::adapter_file::AdapterFile;
use graftling::formats::adapter_hub::WEIGHTS;
use graftling::generate::Generator;
use graftling::graph::{Counts, Matrix};
use graftling::reference;
use std::collections::HashMap;

fn check(name: &'static str) {
    let case = Case::of("bottlenecks", name);
    let folder = case.folder.join("adapter");
    let adapter = case.loaded(&folder);
    case.check_losses(&adapter, "as read");
    case.check_generator(&adapter);
    check_greedy(&case, &adapter);
    let (config, tensors) = AdapterFile::load(&folder).unwrap();
    let written = tempfile::tempdir().unwrap();
    config.save(written.path(), &tensors).unwrap();
    let (again, values) = AdapterFile::load(written.path()).unwrap();
    assert_eq!((&again, &values), (&config, &tensors));
    check_keys(&folder, written.path());
    case.check_losses(&case.loaded(written.path()), "as written");
    case.check_steps(adapter);
}

/// Tokens chosen one by one with a cache are the library's, chosen from the whole text each time.
fn check_greedy(case: &Case, adapter: &DeviceAdapter) {
    let greedy = &case.expected["greedy"];
    assert!(greedy["margin"].as_f64().unwrap() > 1e-2, "the best token is not clear");
    let mut generator = Generator::new(&case.setup.weights, &case.setup.files.config, Some(adapter), 64).unwrap();
    let mut logits = generator.read(&ids(&greedy["prompt"])).unwrap();
    for expected in ids(&greedy["token_ids"]) {
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        assert_eq!(best as u32, expected);
        logits = generator.read(&[expected]).unwrap();
    }
}

/// The keys and shapes in the file are those of the library, but for what the adapter is called.
fn check_keys(theirs: &Path, ours: &Path) {
    let keys = |folder: &Path| -> Vec<(String, Vec<usize>)> {
        let bytes = std::fs::read(folder.join(WEIGHTS)).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let named = |(name, view): (String, safetensors::tensor::TensorView)| {
            (name.replace(".adapters.graftling.", ".adapters.task."), view.shape().to_vec())
        };
        let mut keys: Vec<_> = file.tensors().into_iter().map(named).collect();
        keys.sort();
        keys
    };
    // One of them has PyTorch's file.
    if theirs.join(WEIGHTS).exists() {
        assert_eq!(keys(ours), keys(theirs));
    }
    let said = |folder: &Path| json(&folder.join("adapter_config.json"))["config"].clone();
    let (theirs, ours) = (said(theirs), said(ours));
    for (key, value) in ours.as_object().unwrap() {
        let same_place = ["original_ln_before", "original_ln_after", "residual_before_ln"].contains(&key.as_str());
        // Names of functions are kept without their case, and of two ways to say the same sum one is written.
        let same = |a: &Value, b: &Value| a == b || a.as_str().map(str::to_lowercase) == b.as_str().map(str::to_lowercase);
        assert!(same_place || same(value, &theirs[key]), "{key}: {value} and {}", theirs[key]);
    }
}

kinds!(houlsby pfeiffer parallel mixed attention_only mistral qwen2 qwen3 gemma2);

/// A bottleneck adapter beside a LoRA, each with a weight: at weight 0 both are the base, and one bottleneck meets no other.
#[test]
fn a_bottleneck_goes_together_with_a_lora() {
    let case = Case::of("bottlenecks", "houlsby");
    let config = &case.setup.files.config;
    let loaded = |folder: &str| LoadedAdapter::load(&fixtures().join(folder).join("adapter"), config).unwrap();
    let sequence = batch(&[&case.expected]);
    let nll = |adapters| {
        let adapter = LoadedAdapter::together(adapters).unwrap().upload(case.setup.weights.device().clone()).unwrap();
        case.setup.token_nll(Some(&adapter), &sequence)
    };
    let close = |found: &[f32], expected: &[f32], what: &str| {
        for (found, expected) in found.iter().zip(expected) {
            assert_close(f64::from(*found), f64::from(*expected), 1e-4, what);
        }
    };
    let (bottlenecks, lora) = ("bottlenecks/houlsby", "adapters/rslora");
    let alone = nll(vec![(loaded(bottlenecks), 1.0)]);
    close(&nll(vec![(loaded(bottlenecks), 1.0), (loaded(lora), 0.0)]), &alone, "beside a LoRA of weight 0");
    close(&nll(vec![(loaded(bottlenecks), 0.0)]), &case.setup.token_nll(None, &sequence), "at weight 0");
    let together = nll(vec![(loaded(bottlenecks), 1.0), (loaded(lora), 1.0)]);
    assert!(together.iter().zip(&alone).any(|(together, alone)| (together - alone).abs() > 0.1));
    let two = LoadedAdapter::together(vec![(loaded(bottlenecks), 1.0), (loaded("bottlenecks/pfeiffer"), 1.0)]);
    let Err(refused) = two else { panic!("two at one place") };
    assert!(refused.to_string().contains("layers.0.mlp.down_proj") && refused.to_string().contains("bottleneck"), "{refused}");
}

/// The graph in f64 by the reference interpreter is the library in f64: what is left is what transformers computes in f32 (norms, softmax,
/// rotary tables).
#[test]
fn the_graph_in_f64_is_the_library() {
    use graftling::adapter::Adapted;
    use graftling::graph::DType;
    use graftling::model::graph::{Head, Part, Purpose};
    use graftling::ops::rope::rope_table;
    for name in ["houlsby", "pfeiffer", "parallel", "mixed"] {
        let case = Case::of("bottlenecks", name);
        let files = &case.setup.files;
        let (config, tensors) = AdapterFile::load(&case.folder.join("adapter")).unwrap();
        let placement = graftling::adapter::Placement::of_file("adapter", &config, &files.config).unwrap();
        let sequence = batch(&[&case.expected]);
        let adapted =
            Adapted::build(&files.config, &|_| DType::F32, Some(&placement), Purpose::Evaluate, Part::Whole, sequence.rows())
                .unwrap();
        let model = &adapted.model;
        let Head::Loss { nll, .. } = model.head else { panic!("evaluation has a loss") };
        let mut leaves: HashMap<_, Matrix> = HashMap::new();
        let matrix = |shape: [usize; 2], values: Vec<f64>| Matrix::new(shape, values);
        let exact = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
        for (name, id) in &model.weights {
            let shape = model.graph[*id].tensor.shape.resolve(&Counts::default());
            leaves.insert(*id, matrix(shape, exact(&files.tensors.read_f32(name).unwrap())));
        }
        let layout = AdapterLayout::new(&placement);
        assert_eq!(layout.tensors.len(), adapted.leaves.trained.len());
        for (tensor, id) in layout.tensors.iter().zip(&adapted.leaves.trained) {
            let given = tensors.iter().find(|given| given.name == tensor.name).unwrap();
            let shape = model.graph[*id].tensor.shape.resolve(&Counts::default());
            leaves.insert(*id, matrix(shape, exact(&given.values)));
        }
        let rows = sequence.rows();
        let column = |values: &[u32]| matrix([values.len(), 1], values.iter().map(|&value| f64::from(value)).collect());
        let inputs = &model.inputs;
        leaves.insert(inputs.input_ids, column(&sequence.input_ids));
        leaves.insert(inputs.position, column(&sequence.position));
        leaves.insert(inputs.segment_start, column(&sequence.segment_start));
        leaves.insert(inputs.rows, column(&sequence.supervised_rows));
        leaves.insert(inputs.targets.unwrap(), column(&sequence.targets));
        leaves.insert(inputs.loss_weight.unwrap(), matrix([1, 1], vec![1.0]));
        for (id, rope) in model.rope_tables.iter().zip(&files.config.ropes) {
            leaves.insert(
                *id,
                matrix([rows, rope.dim], exact(&rope_table(&rope.inverse_frequencies(1), rope.attention_factor(), rows))),
            );
        }
        let counts = Counts { tokens: rows, supervised: sequence.targets.len() };
        let found = reference::run(&model.graph, leaves, &counts);
        for (t, (found, expected)) in found[&nll].data.iter().zip(numbers(&case.expected["token_nll"])).enumerate() {
            assert_close(*found, expected, 2e-5, &format!("{name} token {t}"));
        }
    }
}
