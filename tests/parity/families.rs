//! Every family: token losses, gradients, AdamW steps and greedy text, from a Hugging Face folder and from the same weights as GGUF.

use super::*;
use graftling::architecture::experts::ExpertNames;
use graftling::formats::peft::{AdapterConfig, load_adapter_of};
use graftling::generate::Generator;
use graftling::generate::sampling::{Sampler, Sampling};
use graftling::storage::DType;

/// The first Adam steps divide noise by noise, and these models' losses are steep.
const STEP_LOSS: f64 = 5e-4;

pub fn folder_of(name: &str) -> PathBuf {
    fixtures().join("families").join(name)
}

/// PEFT's adapter for the model's family.
pub fn adapter_of(setup: &Setup, folder: &Path) -> (AdapterConfig, Vec<AdapterTensor>) {
    load_adapter_of(folder, setup.files.config.family().experts.as_ref().unwrap_or(&ExpertNames::USUAL)).unwrap()
}

/// The figures of `folder` with the weights of `model`.
fn check(folder: &Path, model: &Path) {
    let (expected, file) = (json(&folder.join("expected.json")), folder.join("expected.safetensors"));
    let setup = Setup::open(model);
    let layers: Vec<usize> = (0..setup.files.config.num_hidden_layers).collect();
    let modules: Vec<&str> = expected["lora"]["modules"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let spec = spec_of(&expected, layers, &modules);
    let (_, start) = adapter_of(&setup, &folder.join("adapter"));
    let what = |of: &str| format!("{} {of}", model.display());

    let sequence = batch(&[&expected]);
    for (group, adapter) in [("base", None), ("adapted", Some(setup.adapter(&spec, &start)))] {
        let found = setup.token_nll(adapter.as_ref(), &sequence);
        for (t, (found, expected)) in found.iter().zip(numbers(&expected[group]["token_nll"])).enumerate() {
            assert_close(f64::from(*found), expected, TOKEN_LOSS, &what(&format!("{group} token {t}")));
        }
        let (prompt, text) = (ids(&expected["prompt"]), ids(&expected[group]["greedy"]));
        let mut generator = Generator::new(&setup.weights, &setup.files.config, adapter.as_ref(), 64).unwrap();
        let mut sampler = Sampler::new(Sampling::default()).unwrap();
        let found = generator.generate(&prompt, &mut sampler, text.len(), &[], |_| Ok(())).unwrap();
        assert_eq!(found, text, "{}", what(group));
    }

    let mut trainer = setup.trainer(&spec, &start, sequence.rows(), false);
    let (loss, found) = gradients(&mut trainer, &sequence);
    assert_close(loss, expected["gradients"]["loss"].as_f64().unwrap(), LORA_LOSS, &what("loss"));
    assert_tensors(&found, &tensors(&file, "gradients."), 1e-3);

    let trainer = check_adamw(&setup, &spec, &start, &expected["adamw"], STEP_LOSS, &model.display().to_string());
    assert_tensors(&trainer.adapter().tensors().unwrap(), &tensors(&file, "adamw."), ADAPTER_L2);
}

macro_rules! families {
    (folder: $($folder:ident)*; folder and gguf: $($both:ident)*) => {
        $(#[test] fn $folder() { check(&folder_of(stringify!($folder)), &folder_of(stringify!($folder))); })*
        $(#[test] fn $both() {
            let folder = folder_of(stringify!($both));
            check(&folder, &folder);
            check(&folder, &folder.join("model.gguf"));
        })*
    };
}

families! {
    folder: llama_yarn llama_dynamic mistral qwen2_windows granite_biases gemma3_with_images qwen3_moe_mixed
        gpt_oss_plain;
    folder and gguf: llama_biases llama_linear qwen2 qwen3 gemma2 gemma3 phi3_longrope phi3_window smollm3 olmo2 granite
        mixtral qwen2_moe qwen3_moe gpt_oss
}

/// As it is published, and as llama.cpp has that: blocks stay blocks on the device, and the figures are those of the numbers in them.
#[test]
fn experts_in_blocks() {
    let folder = folder_of("gpt_oss");
    for model in [folder.join("mxfp4"), folder.join("mxfp4.gguf")] {
        check(&folder, &model);
        let setup = Setup::open(&model);
        for module in ["gate_proj", "up_proj", "down_proj"] {
            let name = format!("model.layers.0.mlp.experts.{module}.weight");
            assert_eq!(setup.weights.dtype(&name), DType::MXFP4, "{}: {name}", model.display());
        }
    }
}

/// Packed beside others, an example has the losses that it has alone: windows, and rotations that look at the length, are its own.
#[test]
fn packed_examples_are_each_by_themselves() {
    for name in ["mistral", "gemma3", "phi3_longrope", "gpt_oss"] {
        let folder = folder_of(name);
        let expected = json(&folder.join("expected.json"));
        let setup = Setup::open(&folder);
        let records = expected["adamw"]["records"].as_array().unwrap();
        let all: Vec<&Value> = [&expected].into_iter().chain(records).collect();
        let packed = setup.token_nll(None, &batch(&all));
        let alone: Vec<f32> = all.iter().flat_map(|record| setup.token_nll(None, &batch(&[record]))).collect();
        assert_eq!(packed.len(), alone.len());
        for (row, (packed, alone)) in packed.iter().zip(&alone).enumerate() {
            assert_close(f64::from(*packed), f64::from(*alone), 2e-5, &format!("{name} prediction {row}"));
        }
    }
}

/// What PEFT wrote of single experts is written again as it was: the same keys, shapes and numbers.
#[test]
fn adapters_of_experts_are_written_as_they_were_read() {
    use graftling::formats::folder_weights::FolderWeights;
    use graftling::formats::peft::save_adapter;
    use graftling::storage::TensorSource;
    for name in ["mixtral", "qwen2_moe", "qwen3_moe", "qwen3_moe_mixed", "gpt_oss", "gpt_oss_plain"] {
        let folder = folder_of(name).join("adapter");
        let family = ModelFiles::open(folder_of(name).to_str().unwrap()).unwrap().config.family();
        let load = |folder: &Path| load_adapter_of(folder, family.experts.as_ref().unwrap()).unwrap();
        let (config, tensors) = load(&folder);
        let out = tempfile::tempdir().unwrap();
        save_adapter(out.path(), &config, &tensors).unwrap();
        let read = |folder: &Path| FolderWeights::open(&[folder.join("adapter_model.safetensors")]).unwrap();
        let (theirs, ours) = (read(&folder), read(out.path()));
        let shapes = |file: &FolderWeights| -> Vec<(String, Vec<usize>)> {
            file.tensors().iter().map(|info| (info.name.clone(), info.shape.clone())).collect()
        };
        assert_eq!(shapes(&ours), shapes(&theirs), "{name}");
        for info in theirs.tensors() {
            assert_eq!(ours.read_f32(&info.name).unwrap(), theirs.read_f32(&info.name).unwrap(), "{name}: {}", info.name);
        }
        let (again, same) = load(out.path());
        assert_eq!((again, same), (config, tensors), "{name}");
        // What PEFT is told of parameters it was told before, in whatever order.
        let parameters = |folder: &Path| {
            let mut names =
                json(&folder.join("adapter_config.json"))["target_parameters"].as_array().cloned().unwrap_or_default();
            names.sort_by_key(Value::to_string);
            names
        };
        assert_eq!(parameters(out.path()), parameters(&folder), "{name}");
    }
}

/// With transformers 5, PEFT has one pair for gate and up of all experts together, and saves it so: what it computes is the same.
#[test]
fn adapters_of_fused_experts_are_read() {
    for name in ["mixtral", "qwen3_moe"] {
        let folder = folder_of(name);
        let expected = json(&folder.join("expected.json"));
        let setup = Setup::open(&folder);
        let adapter = DeviceAdapter::load(&folder.join("adapter_fused"), device(), &setup.files.config).unwrap();
        let found = setup.token_nll(Some(&adapter), &batch(&[&expected]));
        for (t, (found, expected)) in found.iter().zip(numbers(&expected["adapted"]["token_nll"])).enumerate() {
            assert_close(f64::from(*found), expected, TOKEN_LOSS, &format!("{name} token {t}"));
        }
    }
}

/// PEFT compares parameters with no layers, so those of some layers are named with their layer; a folder with parameters alone is one too.
#[test]
fn parameters_of_some_layers_are_named_with_their_layer() {
    use graftling::formats::peft::save_adapter;
    let setup = Setup::open(&folder_of("gpt_oss"));
    let (config, tensors) = adapter_of(&setup, &folder_of("gpt_oss").join("adapter"));
    let is_meant = |tensor: &&AdapterTensor| tensor.name.starts_with("layers.1.mlp.experts.");
    let tensors: Vec<AdapterTensor> = tensors.iter().filter(is_meant).cloned().collect();
    let target_modules = ["down_proj", "gate_up_proj"].map(str::to_owned).to_vec();
    let config = AdapterConfig { target_modules, layers_to_transform: Some(vec![1]), ..config };
    let out = tempfile::tempdir().unwrap();
    save_adapter(out.path(), &config, &tensors).unwrap();
    let written = json(&out.path().join("adapter_config.json"));
    assert_eq!(
        (&written["target_modules"], &written["target_parameters"]),
        (&serde_json::json!([]), &serde_json::json!(["layers.1.mlp.experts.down_proj", "layers.1.mlp.experts.gate_up_proj"]))
    );
    let (again, same) = adapter_of(&setup, out.path());
    assert_eq!(
        (again.target_modules, again.layers_to_transform, same),
        (config.target_modules, config.layers_to_transform, tensors)
    );
    let adapter = DeviceAdapter::load(out.path(), device(), &setup.files.config).unwrap();
    assert_eq!(adapter.placement.pieces.len(), 2);
}
