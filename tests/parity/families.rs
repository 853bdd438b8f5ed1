//! Every family: token losses, gradients, AdamW steps and greedy text, from a Hugging Face folder and from the same weights as GGUF.

use super::*;
use graftling::generate::Generator;
use graftling::generate::sampling::{Sampler, Sampling};

/// The first Adam steps divide noise by noise, and these models' losses are steep.
const STEP_LOSS: f64 = 5e-4;

pub fn folder_of(name: &str) -> PathBuf {
    fixtures().join("families").join(name)
}

/// The figures of `folder` with the weights of `model`.
fn check(folder: &Path, model: &Path) {
    let (expected, file) = (json(&folder.join("expected.json")), folder.join("expected.safetensors"));
    let setup = Setup::open(model);
    let layers: Vec<usize> = (0..setup.files.config.num_hidden_layers).collect();
    let modules: Vec<&str> = expected["lora"]["modules"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let spec = spec_of(&expected, layers, &modules);
    let (_, start) = load_adapter(&folder.join("adapter")).unwrap();
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
    folder: llama_yarn llama_dynamic mistral qwen2_windows granite_biases gemma3_with_images qwen3_moe_mixed;
    folder and gguf: llama_biases llama_linear qwen2 qwen3 gemma2 gemma3 phi3_longrope phi3_window smollm3 olmo2 granite
        mixtral qwen2_moe qwen3_moe
}

/// Packed beside others, an example has the losses that it has alone: windows, and rotations that look at the length, are its own.
#[test]
fn packed_examples_are_each_by_themselves() {
    for name in ["mistral", "gemma3", "phi3_longrope"] {
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
    for name in ["mixtral", "qwen2_moe", "qwen3_moe", "qwen3_moe_mixed"] {
        let folder = folder_of(name).join("adapter");
        let (config, tensors) = load_adapter(&folder).unwrap();
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
        let (again, same) = load_adapter(out.path()).unwrap();
        assert_eq!((again.target_modules, again.experts, same), (config.target_modules, config.experts, tensors), "{name}");
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
