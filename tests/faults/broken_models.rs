//! What is wrong with the base model is said of the base model, and advice can be followed.

use std::fs;

use serde_json::Value;

use crate::runs::{Workshop, run};

/// Changes the values of one tensor of the model, or of all.
fn change(shop: &Workshop, tensor: Option<&str>, change: impl Fn(usize) -> f32) {
    let path = shop.path("model/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let entries: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    for (name, entry) in entries.iter().filter(|(name, _)| *name != "__metadata__") {
        assert_eq!(entry["dtype"], "F32", "{name}");
        if tensor.is_none_or(|tensor| tensor == name) {
            let [start, end] = [0, 1].map(|at| 8 + header + entry["data_offsets"][at].as_u64().unwrap() as usize);
            for (at, value) in bytes[start..end].chunks_exact_mut(4).enumerate() {
                let old = f32::from_le_bytes(value.try_into().unwrap());
                let new = change(at);
                value.copy_from_slice(&if new == 0.5 { old } else { new }.to_le_bytes());
            }
        }
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn values_that_are_not_finite_are_refused_by_the_tensors_name() {
    for (tensor, value) in [("model.embed_tokens.weight", f32::NAN), ("model.layers.2.mlp.up_proj.weight", f32::NEG_INFINITY)] {
        let shop = Workshop::new();
        change(&shop, Some(tensor), |at| if at == 77 { value } else { 0.5 });
        let commands = [
            shop.train("out", &["--max-steps", "2"]),
            shop.command(&["eval", "--model", "model", "--data", "train.jsonl"]),
            shop.command(&["generate", "--model", "model", "--prompt", "w5"]),
        ];
        for command in commands {
            let (_, err) = run(command, 2);
            assert!(err.contains(tensor) && err.contains("not finite") && err.contains("download or convert"), "{err}");
            assert!(!err.contains("of lines") && !err.contains("--learning-rate"), "{err}");
        }
    }
    // Finite in the file, but not in the type that was asked for.
    let shop = Workshop::new();
    change(&shop, Some("model.layers.0.self_attn.q_proj.weight"), |at| if at == 5 { 1e6 } else { 0.5 });
    let (_, err) = run(shop.train("out", &["--max-steps", "2", "--weights", "f16"]), 2);
    assert!(err.contains("q_proj") && err.contains("65504") && err.contains("bf16"), "{err}");
}

#[test]
fn a_model_whose_weights_are_zero_or_constant_is_no_success() {
    for (tensor, value) in [(None, 0.0), (Some("model.embed_tokens.weight"), 0.0), (Some("model.norm.weight"), 0.0)] {
        let shop = Workshop::new();
        change(&shop, tensor, |_| value);
        let (_, err) = run(shop.train("out", &["--max-steps", "3"]), 1);
        assert!(err.contains("logarithm of the vocabulary") && err.contains("cannot learn"), "{err}");
        assert!(err.contains("nothing but zeros"), "{err}");
        assert!(!shop.path("out/adapter_model.safetensors").exists());
    }
    let shop = Workshop::new();
    change(&shop, None, |_| 0.25);
    let output = shop.train("out", &["--max-steps", "3"]).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("logarithm of the vocabulary"), "{err}");
}

#[test]
fn advice_after_a_divergence_can_be_followed() {
    let shop = Workshop::new();
    let diverges = |out: &str, save: &str| {
        let mut command = shop.command(&["train", "--model", "model", "--data", "train.jsonl", "--out", out, "--lora-r", "4"]);
        command.args(["--max-grad-norm", "0", "--max-steps", "50", "--lr-schedule", "constant"]);
        command.args(["--learning-rate", "1e36", "--save-steps", save]);
        run(command, 1).1
    };
    // No checkpoint: none is spoken of.
    let err = diverges("none", "50");
    assert!(err.contains("in another --out with a lower --learning-rate, or with clipping"), "{err}");
    assert!(!err.contains("checkpoint") && !err.contains("--resume"), "{err}");
    assert!(!shop.names("none").iter().any(|name| name.starts_with("checkpoint-")));

    // With one: what is proposed works as it is written.
    run(shop.train("good", &["--max-steps", "2", "--save-steps", "2", "--lr-schedule", "constant"]), 0);
    let mut command =
        shop.command(&["train", "--model", "model", "--data", "train.jsonl", "--out", "good", "--learning-rate", "1e-4"]);
    command.args(["--max-steps", "4", "--lr-schedule", "constant", "--resume"]);
    let (_, err) = run(command, 2);
    assert!(err.contains("learning_rate was 0.005 and is 0.0001") && err.contains("another --out (with --init-adapter"), "{err}");
    let mut command = shop.command(&["train", "--model", "model", "--data", "train.jsonl", "--out", "anew"]);
    command.args(["--init-adapter", "good/checkpoint-2", "--learning-rate", "1e-4", "--max-steps", "2"]);
    run(command, 0);
}

/// Weights that overflow f32 in the first forward pass: no learning rate helps.
#[test]
fn a_model_that_overflows_before_any_update_is_not_blamed_on_the_learning_rate() {
    let shop = Workshop::new();
    change(&shop, Some("model.layers.0.mlp.down_proj.weight"), |_| 3e38);
    let (_, err) = run(shop.train("out", &["--max-steps", "3"]), 1);
    assert!(err.contains("step 1") && err.contains("no update has been made yet") && err.contains("graftling eval"), "{err}");
    assert!(!err.contains("--learning-rate") && !err.contains("--resume"), "{err}");
}
