//! Whole models against PyTorch, transformers and PEFT: the figures in `tests/fixtures/reference/` (its README says how they were made).

/// A test for each of these kinds of adapter: `check` of the module that names them.
macro_rules! kinds {
    ($($name:ident)*) => { $(#[test] fn $name() { check(stringify!($name)); })* };
}

mod adapters;
mod bitsandbytes;
mod bottlenecks;
#[path = "../common/mod.rs"]
mod common;
mod eva;
mod families;
mod modes;
mod quantised;
mod routers;
mod taken_home;

use common::device;
use graftling::adapter::{DeviceAdapter, UniformLora};
use graftling::data::{Batch, Example};
use graftling::formats::ModelFiles;
use graftling::formats::peft::{AdapterTensor, load_adapter};
use graftling::gpu::Device;
use graftling::model::weights::{DeviceWeights, WeightType};
use graftling::ops::adamw::Hyper;
use graftling::session::evaluate::Evaluator;
use graftling::train::memory::StepShape;
use graftling::train::step::Recompute;
use graftling::train::trainer::Trainer;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bounds of design section 9.
const TOKEN_LOSS: f64 = 5e-4;
const LORA_LOSS: f64 = 2e-4;
const ADAPTER_L2: f64 = 1e-2;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference")
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A record of a fixture; every token but the first is supervised where it has no labels.
fn example(record: &Value) -> Example {
    let input_ids = ids(&record["input_ids"]);
    let labels = match record["labels"].as_array() {
        Some(labels) => labels.iter().map(|label| u32::try_from(label.as_i64().unwrap()).ok()).collect(),
        None => input_ids.iter().copied().map(Some).collect(),
    };
    Example { input_ids, labels, line: 1 }
}

fn batch(records: &[&Value]) -> Batch {
    let examples: Vec<Example> = records.iter().map(|record| example(record)).collect();
    Batch::assemble(&examples, &(0..examples.len()).collect::<Vec<_>>())
}

/// A model on the device, and its start adapter.
struct Setup {
    files: ModelFiles,
    weights: Arc<DeviceWeights>,
}

impl Setup {
    fn open(spec: &Path) -> Self {
        Self::open_on(device(), spec)
    }

    fn open_on(device: Arc<Device>, spec: &Path) -> Self {
        Self::open_as(device, spec, WeightType::Lossless)
    }

    fn open_as(device: Arc<Device>, spec: &Path, weight_type: WeightType) -> Self {
        let files = ModelFiles::open(spec.to_str().unwrap()).unwrap();
        let weights = DeviceWeights::upload(device, &files.config, &*files.tensors, weight_type, |_, _| {}).unwrap();
        Self { files, weights: Arc::new(weights) }
    }

    fn adapter(&self, spec: &UniformLora, start: &[AdapterTensor]) -> DeviceAdapter {
        let layout = graftling::adapter::AdapterLayout::new(&spec.on(&self.files.config));
        let used: Vec<AdapterTensor> =
            start.iter().filter(|given| layout.tensors.iter().any(|tensor| tensor.name == given.name)).cloned().collect();
        let contents = layout.pack("start", &used).unwrap();
        DeviceAdapter::new(self.weights.device().clone(), spec.on(&self.files.config), layout, &contents).unwrap()
    }

    fn trainer(&self, spec: &UniformLora, start: &[AdapterTensor], max_tokens: usize, accumulate: bool) -> Trainer {
        let shape = StepShape { max_tokens, accumulate, recompute: Recompute::None, held_out_tokens: 0 };
        Trainer::new(self.weights.clone(), &self.files.config, self.adapter(spec, start), shape, 0, None).unwrap()
    }

    fn token_nll(&self, adapter: Option<&DeviceAdapter>, batch: &Batch) -> Vec<f32> {
        let mut evaluator = Evaluator::new(self.weights.clone(), &self.files.config, adapter, batch.rows()).unwrap();
        evaluator.token_nll(batch).unwrap()
    }
}

fn spec_of(expected: &Value, layers: Vec<usize>, modules: &[&str]) -> UniformLora {
    let r = expected["lora"]["r"].as_u64().unwrap() as usize;
    UniformLora {
        r,
        scale: expected["lora"]["alpha"].as_f64().unwrap() / r as f64,
        dropout: 0.0,
        target_modules: modules.iter().map(|&module| module.to_owned()).collect(),
        layers,
    }
}

const ALL: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
const MLP: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// Tensors of a fixture whose names begin with `group.`, as f64.
fn tensors(path: &Path, group: &str) -> Vec<(String, Vec<f64>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .filter_map(|(name, view)| {
            let name = name.strip_prefix(group)?.to_owned();
            let values = match view.dtype() {
                safetensors::Dtype::F64 => bytemuck::pod_collect_to_vec::<u8, f64>(view.data()),
                safetensors::Dtype::F32 => {
                    bytemuck::pod_collect_to_vec::<u8, f32>(view.data()).into_iter().map(f64::from).collect()
                }
                other => panic!("{name} is {other:?}"),
            };
            Some((name, values))
        })
        .collect()
}

/// `|found - expected| / |expected|` over the whole tensor.
fn relative_l2(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference: f64 = found.iter().zip(expected).map(|(&found, expected)| (f64::from(found) - expected).powi(2)).sum();
    let norm: f64 = expected.iter().map(|value| value * value).sum();
    (difference / norm.max(f64::MIN_POSITIVE)).sqrt()
}

#[track_caller]
fn assert_tensors(found: &[AdapterTensor], expected: &[(String, Vec<f64>)], bound: f64) {
    assert!(!expected.is_empty());
    for (name, expected) in expected {
        let found = found.iter().find(|tensor| tensor.name == *name).unwrap_or_else(|| panic!("no tensor {name}"));
        let distance = relative_l2(&found.values, expected);
        assert!(distance <= bound, "{name}: {distance:e} > {bound:e}");
    }
}

#[track_caller]
fn assert_close(found: f64, expected: f64, bound: f64, what: &str) {
    assert!((found - expected).abs() <= bound, "{what}: {found} against {expected}");
}

/// Nothing but the adapter lies between two steps, so gradients are read by running a batch and reading the buffer.
fn gradients(trainer: &mut Trainer, batch: &Batch) -> (f64, Vec<AdapterTensor>) {
    let loss = trainer.accumulate(batch, 1.0 / batch.supervised_rows.len() as f64, true).unwrap();
    let contents = trainer.gradients().unwrap();
    (loss, trainer.adapter().layout.unpack(&contents))
}

fn tiny(name: &str) {
    let folder = fixtures().join("tiny").join(name);
    let (expected, file) = (json(&folder.join("expected.json")), folder.join("expected.safetensors"));
    let setup = Setup::open(&folder);
    let all_layers: Vec<usize> = (0..setup.files.config.num_hidden_layers).collect();
    let spec = spec_of(&expected, all_layers.clone(), &ALL);
    let (_, start) = load_adapter(&folder.join("adapter")).unwrap();

    let sequence = batch(&[&expected]);
    for (group, adapter) in [("base", None), ("adapted", Some(setup.adapter(&spec, &start)))] {
        let found = setup.token_nll(adapter.as_ref(), &sequence);
        for (t, (found, expected)) in found.iter().zip(numbers(&expected[group]["token_nll"])).enumerate() {
            assert_close(f64::from(*found), expected, TOKEN_LOSS, &format!("{name} {group} token {t}"));
        }
    }

    // Gradients of one sequence, of packed and masked records, and of the last layer's MLP alone.
    let sft: Vec<&Value> = expected["sft"]["records"].as_array().unwrap().iter().collect();
    let last = spec_of(&expected, vec![all_layers.len() - 1], &MLP);
    for (group, spec, batch) in
        [("gradients", &spec, &sequence), ("sft", &spec, &batch(&sft)), ("last_layer_mlp", &last, &batch(&sft))]
    {
        let mut trainer = setup.trainer(spec, &start, batch.rows(), false);
        let (loss, found) = gradients(&mut trainer, batch);
        assert_close(loss, expected[group]["loss"].as_f64().unwrap(), LORA_LOSS, &format!("{name} {group} loss"));
        assert_tensors(&found, &tensors(&file, &format!("{group}.")), 1e-3);
    }

    // One step of two batches with unequal numbers of supervised tokens.
    let micro: Vec<Batch> = expected["accumulation"]["micro_batches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|records| batch(&records.as_array().unwrap().iter().collect::<Vec<_>>()))
        .collect();
    let tokens: usize = micro.iter().map(|batch| batch.supervised_rows.len()).sum();
    let mut trainer = setup.trainer(&spec, &start, micro.iter().map(Batch::rows).max().unwrap(), true);
    let losses =
        micro.iter().enumerate().map(|(index, batch)| trainer.accumulate(batch, 1.0 / tokens as f64, index == 0).unwrap());
    let loss: f64 = losses.sum();
    assert_close(loss, expected["accumulation"]["loss"].as_f64().unwrap(), LORA_LOSS, &format!("{name} accumulation loss"));
    let norm = trainer.apply(&hyper(0.0, 0.0, 0.0)).unwrap();
    let expected_norm = expected["accumulation"]["grad_norm"].as_f64().unwrap();
    assert_close(norm / expected_norm, 1.0, 1e-4, &format!("{name} accumulation gradient norm"));

    // Ten steps of AdamW with clipping and weight decay.
    let trainer = check_adamw(&setup, &spec, &start, &expected["adamw"], LORA_LOSS, name);
    assert_tensors(&trainer.adapter().tensors().unwrap(), &tensors(&file, "adamw."), ADAPTER_L2);
}

/// Steps of AdamW, one record each, with the losses and the norms of the gradients that the reference had; gives what they trained.
#[track_caller]
fn check_adamw(setup: &Setup, spec: &UniformLora, start: &[AdapterTensor], adamw: &Value, bound: f64, name: &str) -> Trainer {
    let records: Vec<Batch> = adamw["records"].as_array().unwrap().iter().map(|record| batch(&[record])).collect();
    let mut trainer = setup.trainer(spec, start, records.iter().map(Batch::rows).max().unwrap(), false);
    let number = |key: &str| adamw[key].as_f64().unwrap();
    let hyper = Hyper { eps: number("eps"), ..hyper(number("learning_rate"), number("weight_decay"), number("max_grad_norm")) };
    for (index, batch) in records.iter().enumerate() {
        let loss = trainer.accumulate(batch, 1.0 / batch.supervised_rows.len() as f64, true).unwrap();
        let norm = trainer.apply(&Hyper { step: index as u64 + 1, ..hyper }).unwrap();
        assert_close(loss, numbers(&adamw["losses"])[index], bound, &format!("{name} AdamW step {index} loss"));
        assert_close(norm / numbers(&adamw["grad_norms"])[index], 1.0, 1e-3, &format!("{name} AdamW step {index} norm"));
    }
    trainer
}

fn hyper(learning_rate: f64, weight_decay: f64, max_grad_norm: f64) -> Hyper {
    Hyper { learning_rate, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, step: 1, max_grad_norm }
}

#[test]
fn grouped_heads_and_tied_output() {
    tiny("grouped_tied");
}

#[test]
fn full_heads_and_untied_output_in_shards() {
    tiny("mha_untied");
}

#[test]
fn llama3_rope_scaling() {
    tiny("llama3_rope");
}

#[test]
fn wide_heads_and_f16_weights() {
    tiny("wide_heads");
}

#[test]
fn bf16_weights() {
    tiny("bf16");
}

/// A device whose bindings hold less than the embedding: it is split by rows, in the lookup and in both products of the loss.
#[test]
fn weights_split_over_several_bindings() {
    let folder = fixtures().join("tiny/grouped_tied");
    let expected = json(&folder.join("expected.json"));
    let mut device = Device::open(std::env::var("GRAFTLING_TEST_DEVICE").ok().as_deref()).unwrap();
    device.limits.max_storage_buffer_binding_size = 10 << 10;
    let setup = Setup::open_on(Arc::new(device), &folder);
    let (_, start) = load_adapter(&folder.join("adapter")).unwrap();
    let found = setup.token_nll(None, &batch(&[&expected]));
    for (t, (found, expected)) in found.iter().zip(numbers(&expected["base"]["token_nll"])).enumerate() {
        assert_close(f64::from(*found), expected, TOKEN_LOSS, &format!("token {t}"));
    }
    let spec = spec_of(&expected, vec![2], &MLP);
    let sequence = batch(&[&expected]);
    let of = |setup: &Setup| gradients(&mut setup.trainer(&spec, &start, sequence.rows(), false), &sequence).1;
    for (split, whole) in of(&setup).iter().zip(of(&Setup::open(&folder))) {
        let whole: Vec<f64> = whole.values.iter().copied().map(f64::from).collect();
        assert!(relative_l2(&split.values, &whole) <= 1e-5, "gradient of {}", split.name);
    }
}

/// SmolLM2-135M-Instruct, where `GRAFTLING_TEST_MODEL` names its GGUF file; `./tools/test` fetches it.
fn smollm2() -> Option<(Setup, PathBuf)> {
    Some((Setup::open(&common::not_run::smollm2()?), fixtures().join("smollm2")))
}

#[test]
fn smollm2_token_losses() {
    let Some((setup, folder)) = smollm2() else { return };
    for file in ["smollm2_forward.json", "forward_more.json"] {
        for (name, prompt) in json(&folder.join(file)).as_object().unwrap() {
            let found = setup.token_nll(None, &batch(&[prompt]));
            for (t, (found, expected)) in found.iter().zip(numbers(&prompt["token_nll"])).enumerate() {
                assert_close(f64::from(*found), expected, TOKEN_LOSS, &format!("{name} token {t}"));
            }
        }
    }
}

/// The start that the fixtures' README specifies: A from an integer hash, B likewise up to `b_bound`, or zero.
fn hashed_start(spec: &UniformLora, setup: &Setup, b_bound: f64) -> Vec<AdapterTensor> {
    let mix = |mut x: u32| {
        x ^= x >> 16;
        x = x.wrapping_mul(0x7feb_352d);
        x ^= x >> 15;
        x = x.wrapping_mul(0x846c_a68b);
        x ^ (x >> 16)
    };
    spec.on(&setup.files.config)
        .matrices()
        .into_iter()
        .map(|tensor| {
            let seed = tensor.name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
            let unit = |index: u32| f64::from(mix(seed.wrapping_add(index)) >> 8) / f64::from(1 << 23) - 1.0;
            let values = (0..(tensor.shape[0] * tensor.shape[1]) as u32)
                .map(|index| match tensor.name.ends_with("lora_a") {
                    true => (unit(index) / (tensor.shape[1] as f64).sqrt()) as f32,
                    false => (unit(index) * b_bound) as f32,
                })
                .collect();
            AdapterTensor { name: tensor.name, shape: tensor.shape, values }
        })
        .collect()
}

fn smollm2_run(figures: &str, gradients_file: &str, layers: std::ops::Range<usize>, modules: &[&str]) {
    let Some((setup, folder)) = smollm2() else { return };
    let expected = json(&folder.join(figures));
    let spec = spec_of(&expected, layers.collect(), modules);
    let lines = std::fs::read_to_string(folder.join("lora_batches.jsonl")).unwrap();
    let records: Vec<Batch> = lines.lines().map(|line| batch(&[&serde_json::from_str(line).unwrap()])).collect();
    let mut trainer = setup.trainer(&spec, &hashed_start(&spec, &setup, 0.0), 128, false);
    let losses = numbers(&expected["losses"]);
    for (index, (batch, &loss)) in records.iter().zip(&losses).enumerate() {
        let found = trainer.accumulate(batch, 1.0 / batch.supervised_rows.len() as f64, true).unwrap();
        assert_close(found, loss, LORA_LOSS, &format!("step {} loss", index + 1));
        if index == 1 && !gradients_file.is_empty() {
            let gradients = trainer.adapter().layout.unpack(&trainer.gradients().unwrap());
            assert_tensors(&gradients, &tensors(&folder.join(gradients_file), ""), 1e-2);
        }
        let norm = trainer.apply(&Hyper { step: index as u64 + 1, ..hyper(2e-4, 0.0, 0.0) }).unwrap();
        assert_close(norm / numbers(&expected["grad_norms"])[index], 1.0, 1e-3, &format!("step {} gradient norm", index + 1));
    }
    for tensor in trainer.adapter().tensors().unwrap() {
        let norm = tensor.values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
        let expected = expected["final_l2"][&tensor.name].as_f64().unwrap();
        assert_close(norm / expected, 1.0, ADAPTER_L2, &format!("final norm of {}", tensor.name));
    }
}

#[test]
fn smollm2_lora_on_all_projections() {
    smollm2_run("lora_all_linear.json", "lora_all_linear_gradients.safetensors", 0..30, &ALL);
}

#[test]
fn smollm2_lora_on_the_mlp_of_the_last_third() {
    smollm2_run("lora_mlp_20_29.json", "lora_mlp_20_29_gradients.safetensors", 20..30, &MLP);
}

#[test]
fn smollm2_lora_on_attention() {
    smollm2_run("lora_attention.json", "", 0..30, &ALL[..4]);
}
