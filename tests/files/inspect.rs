//! `graftling inspect` as a user calls it.

use std::process::Output;

use serde_json::Value;

use super::{gguf_file::GgufFile, program::program, tiny};

fn inspect(arguments: &[&str]) -> Output {
    program().arg("inspect").args(arguments).env("HF_HUB_OFFLINE", "1").output().unwrap()
}

fn report(arguments: &[&str]) -> Value {
    let output = inspect(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/configs/{name}.json", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_config_alone_is_enough() {
    let report = report(&[&fixture("llama-3-8b"), "--target-modules", "attention", "--lora-r", "8", "--layers", "0-15,31"]);
    assert_eq!(report["parameters"], 8_030_261_248_u64);
    assert_eq!(report["trainable"], true);
    assert_eq!(report["layers"].as_array().unwrap().len(), 32);
    // One layer: q and o are 4096 x 4096, k and v 1024 x 4096; r (in + out) each.
    assert_eq!(report["adapter"]["trainable_parameters"], 17 * 8 * (2 * 8192 + 2 * 5120));
    // Half types take two bytes for all but the 65 norms of 4096 values, which stay f32.
    assert_eq!(report["bytes"]["bf16"], 2 * 8_030_261_248_u64 + 2 * 65 * 4096);
    assert_eq!(report["weights"], Value::Null);
}

#[test]
fn parts_add_up_for_every_family() {
    for name in ["llama-3-70b", "llama-3.1-405b", "mistral-7b-v0.1", "phi-3-mini-4k", "qwen2.5-72b"] {
        let report = report(&[&fixture(name)]);
        let total = report["parameters"].as_u64().unwrap();
        let sum = |values: Vec<&Value>| values.into_iter().map(|value| value.as_u64().unwrap()).sum::<u64>();
        assert_eq!(sum(report["parameters_by_part"].as_object().unwrap().values().collect()), total, "{name}");
        assert_eq!(
            sum(report["modules"].as_array().unwrap().iter().map(|module| &module["parameters"]).collect()),
            total,
            "{name}"
        );
    }
}

#[test]
fn files_are_described_as_far_as_they_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("tiny.gguf");
    std::fs::write(&gguf, GgufFile::tiny().bytes()).unwrap();
    let facts = report(&[gguf.to_str().unwrap()]);
    assert_eq!(facts["weights"]["complete"], true);
    assert_eq!(facts["weights"]["storage"][0]["parameters"], facts["parameters"]);
    assert_eq!((&facts["text"]["tokens"], &facts["text"]["eos_token"]), (&Value::from(40), &Value::from("t2")));

    let only_config = tempfile::tempdir().unwrap();
    std::fs::write(only_config.path().join("config.json"), tiny::config_json().to_string()).unwrap();
    assert_eq!(report(&[only_config.path().to_str().unwrap()])["parameters"], facts["parameters"]);

    let whole = tempfile::tempdir().unwrap();
    tiny::write_folder(whole.path());
    assert_eq!(report(&[whole.path().to_str().unwrap()])["weights"]["complete"], true);
}

#[test]
fn tables_are_for_people() {
    let output = inspect(&[&fixture("phi-3-mini-4k")]);
    let text = String::from_utf8(output.stdout).unwrap();
    for needle in ["3,821,079,552", "qkv_proj", "gate_up_proj", "window of 2,047 tokens in 32 of 32", "25,165,824", "32 layers"] {
        assert!(text.contains(needle), "{needle} in:\n{text}");
    }
}

/// GGUF has no key for the windows of Mistral, whose files are like Llama's, and of Qwen; it has for those of Gemma.
#[test]
fn a_gguf_file_that_cannot_say_its_windows_is_told_of() {
    for (family, told) in [("llama_biases", true), ("qwen2", true), ("gemma3", false), ("granite", false)] {
        let file = format!("{}/tests/fixtures/reference/families/{family}/model.gguf", env!("CARGO_MANIFEST_DIR"));
        let text = String::from_utf8(inspect(&[&file]).stdout).unwrap();
        assert_eq!(text.contains("no sliding window in the file"), told, "{family}: {text}");
    }
    assert!(!String::from_utf8(inspect(&[&fixture("llama-3-8b")]).stdout).unwrap().contains("no sliding window"));
}

#[test]
fn wrong_input_is_one_message_and_exit_code_2() {
    let config = fixture("phi-3-mini-4k");
    for (arguments, needle) in [
        (vec![config.as_str(), "--target-modules", "qkv_porj"], "Did you mean `qkv_proj`?"),
        (vec![config.as_str(), "--layers", "40"], "layer 40 does not exist"),
        (vec![config.as_str(), "--lora-r", "0"], "--lora-r"),
        (vec!["no/such/model/here"], "does not exist"),
        (vec!["owner/model"], "HF_HUB_OFFLINE"),
    ] {
        let output = inspect(&arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(needle) && !text.contains("panicked"), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty());
    }
}

/// Every kind of adapter that PEFT writes: what is set, and by module the layers, ranks and scales.
#[test]
fn adapters_are_described_with_all_their_options() {
    let folder = |name: &str| format!("{}/tests/fixtures/reference/adapters/{name}/adapter", env!("CARGO_MANIFEST_DIR"));
    let module = |facts: &Value, name: &str| {
        let modules = facts["modules"].as_array().unwrap();
        modules.iter().find(|module| module["module"] == name).unwrap_or_else(|| panic!("no {name} in {facts}")).clone()
    };
    let facts = report(&[&folder("patterns")]);
    assert_eq!((&facts["method"], &facts["usable"]), (&Value::from("LoRA"), &Value::from(true)));
    let q = module(&facts, "q_proj");
    assert_eq!((&q["ranks"], &q["scales"]), (&serde_json::json!([2]), &serde_json::json!([2.5, 4.0])));
    // Rank 6 in layers 1 and 2 alone.
    assert_eq!(module(&facts, "down_proj")["ranks"], serde_json::json!([4, 6]));
    assert_eq!(facts["config"]["rank_pattern"]["q_proj"], 2);
    let sum: u64 = facts["modules"].as_array().unwrap().iter().map(|module| module["parameters"].as_u64().unwrap()).sum();
    assert_eq!(facts["parameters"], sum);

    let facts = report(&[&folder("some_layers")]);
    assert_eq!(module(&facts, "o_proj")["layers"], serde_json::json!([0, 2]));
    for (name, needles) in [
        ("dora_rslora", ["DoRA", "use_rslora"].as_slice()),
        ("rslora", &["LoRA, rank-stabilised", "rank_pattern up_proj = 2"]),
        ("excluded", &["exclude_modules .*layers\\.0\\..*|.*\\.o_proj", "1-2"]),
        ("regex", &["target_modules .*layers\\.(0\\.self_attn\\.q_proj|[12]\\.mlp\\.(gate|up)_proj)"]),
        ("orthogonal", &["init_lora_weights orthogonal"]),
        ("lora_bias", &["lora_bias true"]),
        ("whole_output", &["modules_to_save lm_head", "3,072"]),
    ] {
        let text = String::from_utf8(inspect(&[&folder(name)]).stdout).unwrap();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for needle in needles {
            assert!(text.contains(needle), "{name}: {needle} in:\n{text}");
        }
    }
}

/// What graftling does not compute is described all the same, and it says why it does not.
#[test]
fn adapters_that_cannot_be_used_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let config = serde_json::json!({ "peft_type": "VERA", "r": 256, "target_modules": ["q_proj"], "projection_prng_key": 7 });
    std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    let facts = report(&[place]);
    assert_eq!((&facts["method"], &facts["usable"]), (&Value::from("VERA"), &Value::from(false)));
    assert!(facts["problem"].as_str().unwrap().contains("peft_type"), "{facts}");
    let text = String::from_utf8(inspect(&[place]).stdout).unwrap();
    assert!(text.contains("projection_prng_key") && text.contains("cannot use it"), "{text}");
    std::fs::write(folder.path().join("adapter_config.json"), "{").unwrap();
    let refused = inspect(&[place]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is not valid JSON"));
}
