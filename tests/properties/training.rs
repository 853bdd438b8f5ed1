//! Laws of a model that is trained, evaluated and asked, on a tiny one: dropout, the adapter's start, prompts of several chunks.

use crate::common::device;
use graftling::adapter::{Adapted, DeviceAdapter, UniformLora};
use graftling::bench::step::{lora, random_batch};
use graftling::data::{Batch, Example};
use graftling::formats::ModelFiles;
use graftling::generate::Generator;
use graftling::graph::{DType, Graph};
use graftling::model::graph::{Part, Purpose};
use graftling::model::weights::{DeviceWeights, WeightType};
use graftling::ops::Random;
use graftling::session::evaluate::Evaluator;
use graftling::train::memory::StepShape;
use graftling::train::step::{LossGraph, Recompute};
use graftling::train::trainer::Trainer;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

fn files() -> ModelFiles {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference/tiny/grouped_tied");
    ModelFiles::open(folder.to_str().unwrap()).unwrap()
}

fn weights(files: &ModelFiles) -> Arc<DeviceWeights> {
    Arc::new(DeviceWeights::upload(device(), &files.config, &*files.tensors, WeightType::Lossless, |_, _| {}).unwrap())
}

fn dropouts(graph: &Graph) -> Vec<String> {
    graph.nodes().iter().filter(|node| node.op.name() == "dropout").map(|node| format!("{:?}", node.op)).collect()
}

/// Each adapted layer of a step drops its own elements: no two share a salt. And only training drops any.
#[test]
fn every_projection_has_its_own_dropout_and_only_in_training() {
    let config = files().config;
    let placement = UniformLora { dropout: 0.3, ..lora(4, &config) }.on(&config);
    let step = LossGraph::build(&config, &|_| DType::F32, &placement, 16).unwrap();
    let forward: Vec<String> = dropouts(&step.model.graph);
    let adapted = placement.pieces.len();
    // The backward pass repeats those whose input depends on an adapter, with the same salt.
    let distinct: HashSet<&String> = forward.iter().collect();
    assert_eq!(distinct.len(), adapted, "{forward:?}");
    for purpose in [Purpose::Evaluate, Purpose::Generate { cache: 16 }] {
        let adapted = Adapted::build(&config, &|_| DType::F32, Some(&placement), purpose, Part::Whole, 16).unwrap();
        assert_eq!(dropouts(&adapted.model.graph), [""; 0], "{purpose:?}");
        assert!(adapted.dropout_counter.is_none());
    }
}

/// The same batch twice, with an adapter that does not change in between: what is dropped differs, and so does the loss; without dropout
/// it is the same to the bit.
#[test]
fn dropout_differs_from_batch_to_batch() {
    let files = files();
    let weights = weights(&files);
    let batch = random_batch(2, 16, files.config.vocab_size);
    for dropout in [0.0, 0.5] {
        let spec = UniformLora { dropout, ..lora(4, &files.config) };
        let adapter = DeviceAdapter::fresh(device(), spec.on(&files.config), 3).unwrap();
        // B starts at zero, where no adapter is seen, dropped or not.
        let mut random = Random(8);
        adapter.set(&(0..adapter.layout.elements()).map(|_| 0.3 * random.uniform() as f32).collect::<Vec<f32>>());
        let shape = StepShape { max_tokens: batch.rows(), accumulate: false, recompute: Recompute::None, held_out_tokens: 0 };
        let mut trainer = Trainer::new(weights.clone(), &files.config, adapter, shape, 5, None).unwrap();
        let losses: Vec<f64> =
            (0..3).map(|_| trainer.accumulate(&batch, 1.0 / batch.targets.len() as f64, true).unwrap()).collect();
        let distinct: HashSet<u64> = losses.iter().map(|loss| loss.to_bits()).collect();
        assert_eq!(distinct.len(), if dropout == 0.0 { 1 } else { 3 }, "dropout {dropout}: {losses:?}");
    }
}

/// Every A has its own stream of random numbers, which the seed and its name fix, whatever else is adapted.
#[test]
fn every_a_starts_from_its_own_stream() {
    let config = files().config;
    let spec = lora(4, &config);
    let starts: Vec<(String, Vec<u32>)> = spec
        .on(&config)
        .initial(7)
        .iter()
        .filter(|tensor| tensor.name.ends_with("lora_a"))
        .map(|tensor| (tensor.name.clone(), tensor.values.iter().map(|x| x.to_bits()).collect()))
        .collect();
    assert_eq!(starts.len(), 7 * config.num_hidden_layers);
    for (at, (name, values)) in starts.iter().enumerate() {
        assert!(values.iter().collect::<HashSet<_>>().len() > values.len() * 9 / 10, "{name} repeats itself");
        for (other, others) in &starts[..at] {
            // A stream that is scaled, or begins elsewhere, would share the signs; random ones agree in half of them.
            let pairs = values.iter().zip(others);
            let agree = pairs.clone().filter(|(a, b)| (**a >> 31) == (**b >> 31)).count();
            let count = pairs.count();
            assert!(agree * 10 < count * 8, "{name} and {other} start alike: {agree} of {count} signs");
        }
    }
    let alone = UniformLora { target_modules: vec!["v_proj".into()], layers: vec![1], ..spec.clone() };
    let first = |seed| alone.on(&config).initial(seed).remove(0);
    let (_, among_all) = starts.iter().find(|(name, _)| *name == first(7).name).expect("it is adapted in both");
    let bits = |seed| first(seed).values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(&bits(7), among_all);
    assert!(bits(8) != bits(7));
}

/// A prompt that is read in two chunks, and token by token from there, gives the probabilities that one pass over the whole text gives.
#[test]
fn a_prompt_of_several_chunks_is_read_as_one_text() {
    let mut files = files();
    files.config.max_position_embeddings = 640;
    let (config, weights) = (files.config.clone(), weights(&files));
    let mut random = Random(4);
    let ids: Vec<u32> = (0..600).map(|_| random.below(config.vocab_size) as u32).collect();
    let labels = ids.iter().map(|&id| Some(id)).collect();
    let text = [Example { input_ids: ids.clone(), labels, line: 1 }];
    let whole = Batch::assemble(&text, &[0]);
    let nll = Evaluator::new(weights.clone(), &config, None, ids.len()).unwrap().token_nll(&whole).unwrap();
    // Chunks of 256 rows: all of one, one and a row, two and a half, and then single tokens.
    for read in [256, 257, 300, 598] {
        let mut generator = Generator::new(&weights, &config, None, ids.len()).unwrap();
        let mut logits = generator.read(&ids[..read]).unwrap();
        for next in read..(read + 2).min(ids.len()) {
            let largest = logits.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
            let found = sum.ln() - f64::from(logits[ids[next] as usize] - largest);
            // Row next - 1 predicts token next. The bound is design section 12's of a token's loss.
            let expected = f64::from(nll[next - 1]);
            assert!((found - expected).abs() <= 5e-4, "token {next} after {read}: {found} and {expected}");
            logits = generator.read(&ids[next..=next]).unwrap();
        }
    }
}
