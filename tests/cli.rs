//! What the command line says to wrong input: one message that names the place, exit code 2 (or 1 where the run itself fails), no
//! panic, and nothing half-written.

#[path = "common/program.rs"]
mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use program::program;
use tempfile::TempDir;

/// A folder with a tiny model, data that suit it, and room for outputs.
struct Workplace {
    folder: TempDir,
}

impl Workplace {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference/tiny/grouped_tied");
        let model = folder.path().join("model");
        fs::create_dir(&model).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(fixture.join(file), model.join(file)).unwrap();
        }
        fs::write(model.join("tokenizer.json"), tokenizer()).unwrap();
        fs::write(folder.path().join("data.jsonl"), "{\"input_ids\": [3, 4, 5, 6]}\n{\"input_ids\": [7, 8, 9]}\n").unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    /// Changes a text file of the workplace.
    fn edit(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{name} has no {from}");
        self.write(name, text.replace(from, to));
    }

    /// Runs graftling in the workplace, without a way to the network.
    fn graftling(&self, arguments: &[&str]) -> Output {
        program()
            .args(arguments)
            .current_dir(self.folder.path())
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HOME", self.path("hub"))
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap()
    }

    /// Runs a command that must fail: with this exit code, one message on standard error that has all `parts`, and no `out/`.
    #[track_caller]
    fn refuses(&self, arguments: &[&str], exit_code: i32, parts: &[&str]) {
        let output = self.graftling(arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        let shown = format!("graftling {}\n{message}", arguments.join(" "));
        assert_eq!(output.status.code(), Some(exit_code), "{shown}");
        assert_eq!(message.matches("error: ").count(), 1, "{shown}");
        assert!(!message.contains("panicked"), "{shown}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{shown}");
        for part in parts {
            assert!(message.contains(part), "no `{part}` in what was said:\n{shown}");
        }
        let left: Vec<PathBuf> = match fs::read_dir(self.path("out")) {
            // The lock that keeps a second process out may stay; it holds nothing.
            Ok(entries) => entries.map(|entry| entry.unwrap().path()).filter(|path| !path.ends_with(".graftling.lock")).collect(),
            Err(_) => Vec::new(),
        };
        assert!(left.is_empty(), "left behind: {left:?}\n{shown}");
    }

    /// `graftling train` on the workplace's model and data, with more options.
    #[track_caller]
    fn train_refuses(&self, options: &[&str], exit_code: i32, parts: &[&str]) {
        let mut arguments = vec!["train", "--max-steps", "1", "--max-length", "64"];
        for (option, value) in [("--model", "model"), ("--data", "data.jsonl"), ("--out", "out")] {
            if !options.contains(&option) {
                arguments.extend([option, value]);
            }
        }
        arguments.extend(options);
        self.refuses(&arguments, exit_code, parts);
    }
}

/// One word an id: `w3` is 3. The tiny models have 96.
fn tokenizer() -> String {
    let vocabulary: Vec<String> = (0..96).map(|id| format!("\"w{id}\": {id}")).collect();
    format!(
        r#"{{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {{"type": "WhitespaceSplit"}},
            "post_processor": null, "decoder": null, "truncation": null, "padding": null,
            "model": {{"type": "WordLevel", "vocab": {{{}}}, "unk_token": "w0"}}}}"#,
        vocabulary.join(", ")
    )
}

#[test]
fn usage_errors_end_with_2_and_help_with_0() {
    let workplace = Workplace::new();
    for arguments in [&["train", "--no-such-option"][..], &["no-such-command"], &["train", "--lora-r", "many"]] {
        workplace.refuses(arguments, 2, &[]);
    }
    assert_eq!(workplace.graftling(&[]).status.code(), Some(2));
    assert_eq!(workplace.graftling(&["--version"]).status.code(), Some(0));
    for command in ["demo", "train", "eval", "generate", "inspect", "doctor"] {
        let output = workplace.graftling(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{command}");
        assert!(!output.stdout.is_empty(), "{command}");
    }
}

#[test]
fn options_that_cannot_be_used_are_named() {
    let workplace = Workplace::new();
    workplace.refuses(&["train"], 2, &["--model"]);
    workplace.train_refuses(&["--target-modules", "q_proj,z_proj"], 2, &["z_proj", "q_proj", "down_proj"]);
    workplace.train_refuses(&["--layers", "1-9"], 2, &["layers", "9"]);
    workplace.train_refuses(&["--layers", "two"], 2, &["--layers", "two"]);
    workplace.train_refuses(&["--lora-r", "0"], 2, &["--lora-r"]);
    workplace.train_refuses(&["--learning-rate", "nan"], 2, &["--learning-rate"]);
    workplace.train_refuses(&["--device", "no such device"], 2, &["no such device"]);
    workplace.write("recipe.toml", "model = \"model\"\nlearningrate = 1e-3\n");
    workplace.train_refuses(&["--config", "recipe.toml"], 2, &["recipe.toml:2", "learning_rate"]);
    workplace.train_refuses(&["--config", "none.toml"], 2, &["none.toml"]);
}

#[test]
fn data_that_cannot_be_used_is_named_by_file_and_line() {
    let workplace = Workplace::new();
    workplace.train_refuses(&["--data", "none.jsonl"], 2, &["none.jsonl"]);
    let good = "{\"input_ids\": [3, 4, 5]}\n";
    let cases = [
        ("{\"input_ids\": [3, 4", "JSON"),
        ("{\"input_ids\": [3, 96]}", "95"),
        ("{\"input_ids\": [3, 4], \"labels\": [3]}", "label"),
        ("{\"question\": \"w3\"}", "question"),
        ("{\"prompt\": \"w3\"}", "completion"),
        ("{\"messages\": []}", "messages"),
    ];
    for (line, part) in cases {
        workplace.write("broken.jsonl", format!("{good}{line}\n{good}"));
        workplace.train_refuses(&["--data", "broken.jsonl"], 2, &["broken.jsonl:2", part]);
    }
    workplace.write("latin1.jsonl", b"{\"text\": \"w3 w4\"}\n{\"text\": \"caf\xe9\"}\n");
    workplace.train_refuses(&["--data", "latin1.jsonl"], 2, &["latin1.jsonl", "UTF-8"]);
    workplace.write("empty.jsonl", "\n");
    workplace.train_refuses(&["--data", "empty.jsonl"], 2, &["empty.jsonl"]);
    workplace.write("masked.jsonl", "{\"input_ids\": [3, 4], \"labels\": [-100, -100]}\n");
    workplace.train_refuses(&["--data", "masked.jsonl"], 2, &["masked.jsonl"]);
    workplace.train_refuses(&["--data", "model"], 2, &["model"]);
    workplace.train_refuses(&["--eval-data", "none.jsonl"], 2, &["none.jsonl"]);
}

#[test]
fn models_that_are_not_there_are_named() {
    let workplace = Workplace::new();
    workplace.train_refuses(&["--model", "./none"], 2, &["none"]);
    workplace.train_refuses(&["--model", "none.gguf"], 2, &["none.gguf"]);
    // Not in the cache, and no network: the name, and what to do.
    workplace.train_refuses(&["--model", "nobody/nothing"], 2, &["nobody/nothing", "HF_HUB_OFFLINE"]);
    fs::remove_file(workplace.path("model/model.safetensors")).unwrap();
    workplace.train_refuses(&[], 2, &["model", ".safetensors"]);
    fs::remove_file(workplace.path("model/config.json")).unwrap();
    workplace.train_refuses(&[], 2, &["config.json"]);
}

#[test]
fn what_only_looks_like_a_file_of_pytorch_is_refused_with_the_reason() {
    let workplace = Workplace::new();
    fs::rename(workplace.path("model/model.safetensors"), workplace.path("model/pytorch_model.bin")).unwrap();
    workplace.train_refuses(&[], 2, &["pytorch_model.bin", "torch.save", "save_pretrained"]);
}

#[test]
fn an_architecture_that_is_not_supported_is_refused_by_name() {
    let workplace = Workplace::new();
    workplace.edit("model/config.json", "LlamaForCausalLM", "MambaForCausalLM");
    workplace.train_refuses(&[], 2, &["MambaForCausalLM", "LlamaForCausalLM"]);
}

#[test]
fn broken_weights_are_refused_by_file_or_tensor() {
    let workplace = Workplace::new();
    let file = "model/model.safetensors";
    let whole = fs::read(workplace.path(file)).unwrap();
    for length in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        workplace.write(file, &whole[..length]);
        workplace.train_refuses(&[], 2, &["model.safetensors"]);
    }
    // A header that promises more than any memory holds.
    let mut endless = whole.clone();
    endless[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    workplace.write(file, &endless);
    workplace.train_refuses(&[], 2, &["model.safetensors"]);
    workplace.write(file, &whole);
    workplace.edit("model/config.json", "\"intermediate_size\": 64", "\"intermediate_size\": 72");
    workplace.train_refuses(&[], 2, &["mlp.", "64", "72"]);
    for bytes in [&b""[..], b"GGUF", b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"] {
        workplace.write("broken.gguf", bytes);
        workplace.train_refuses(&["--model", "broken.gguf"], 2, &["broken.gguf"]);
    }
}

#[test]
fn broken_configs_and_tokenizers_are_refused_by_file() {
    let workplace = Workplace::new();
    for (from, to) in [("{", "["), ("\"hidden_size\": 32", "\"hidden_size\": -1"), ("\"hidden_size\": 32", "\"hidden_size\": 33")]
    {
        let before = fs::read_to_string(workplace.path("model/config.json")).unwrap();
        workplace.edit("model/config.json", from, to);
        workplace.train_refuses(&[], 2, &[]);
        workplace.write("model/config.json", before);
    }
    workplace.write("model/tokenizer.json", "{\"version\":");
    workplace.train_refuses(&[], 2, &["tokenizer.json"]);
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let workplace = Workplace::new();
    workplace.write("file", "");
    for out in ["file", "file/out"] {
        workplace.train_refuses(&["--out", out], 2, &["file"]);
    }
    assert_eq!(fs::read(workplace.path("file")).unwrap(), b"");
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    let workplace = Workplace::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference/tiny/wide_heads/adapter");
    let generate = ["generate", "--model", "model", "--prompt", "w3", "--max-new-tokens", "1", "--adapter"];
    let with = |adapter| [&generate[..], &[adapter]].concat();
    workplace.refuses(&with("none"), 2, &["none"]);
    workplace.refuses(&with("model"), 2, &["adapter_config.json"]);
    // An adapter of another model.
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        workplace.write(&format!("other/{file}"), fs::read(fixture.join(file)).unwrap());
    }
    workplace.refuses(&with("other"), 2, &["lora"]);
    workplace.edit("other/adapter_config.json", "\"use_dora\": false", "\"use_dora\": true");
    workplace.refuses(&with("other"), 2, &["lora_magnitude_vector"]);
    workplace.write("other/adapter_config.json", "{");
    workplace.refuses(&with("other"), 2, &["adapter_config.json"]);
}

#[test]
fn the_demo_refuses_a_model_that_is_not_there() {
    let workplace = Workplace::new();
    workplace.refuses(&["demo", "--model", "./none", "--out", "out"], 2, &["none"]);
}
