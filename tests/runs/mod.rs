//! Runs of the real program on a tiny model, for the tests of training and of faults.
#![allow(dead_code, unused_imports)] // each test file uses its own part

#[path = "../common/program.rs"]
mod program;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

pub use program::{program, wait_until};

/// A tiny random Llama with a tokenizer, and data for it, in a folder that goes with the test.
pub struct Workshop {
    folder: TempDir,
}

impl Workshop {
    /// Three layers, 96 tokens; see `tests/fixtures/reference/README.md`. The tokenizer knows the words `w3` to `w95`.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        std::fs::create_dir(&model).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(fixture().join(file), model.join(file)).unwrap();
        }
        std::fs::write(model.join("tokenizer.json"), tokenizer().to_string()).unwrap();
        let workshop = Self { folder };
        let records: Vec<Value> = (0..24).map(record).collect();
        workshop.write_records("train.jsonl", &records);
        workshop.write_records("held-out.jsonl", &(24..30).map(record).collect::<Vec<_>>());
        let expectations =
            [("always", json!({ "regex": "" })), ("never", json!({ "exact": "w2" })), ("at-times", json!({ "regex": "w[4-9]" }))];
        let question = |(number, (group, expect)): (usize, (&str, Value))| {
            let mut expect = expect;
            expect["group"] = json!(group);
            json!({ "prompt": format!("w{} w{}", 10 + number, 30 + 7 * number), "completion": " w5 w9", "expect": expect })
        };
        workshop.write_records(
            "questions.jsonl",
            &expectations.into_iter().cycle().take(9).enumerate().map(question).collect::<Vec<_>>(),
        );
        workshop
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write_records(&self, name: &str, records: &[Value]) {
        let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
        std::fs::write(self.path(name), lines).unwrap();
    }

    /// `graftling COMMAND --model model ...` with this folder as the current one.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.on_device(arguments);
        // Measuring takes seconds, and what it chooses depends on the weather; tests/autotune.rs is about it.
        if ["train", "eval", "generate"].contains(&arguments[0]) {
            command.arg("--no-autotune");
        }
        command
    }

    /// A command without a GPU: merge, export, inspect.
    pub fn command_bare(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.current_dir(self.folder.path()).args(arguments);
        command
    }

    /// [`Workshop::command`] with kernels that are measured, and kept in the folder `cache`. The driver's own cache stays where it is:
    /// without it every run compiles for seconds.
    pub fn tuned(&self, arguments: &[&str]) -> Command {
        let mut command = self.on_device(arguments);
        let of_user = std::env::var("XDG_CACHE_HOME").or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cache")));
        if let Ok(folder) = of_user {
            command.env("MESA_SHADER_CACHE_DIR", folder);
        }
        command.env("XDG_CACHE_HOME", self.path("cache"));
        command
    }

    fn on_device(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.current_dir(self.folder.path()).args(arguments);
        if let Ok(device) = std::env::var("GRAFTLING_TEST_DEVICE") {
            command.args(["--device", &device]);
        }
        command
    }

    /// `graftling train` into `out`, with what most tests have in common: dropout, accumulation, packing and shuffling all on, so
    /// that whatever a checkpoint could forget is in use.
    pub fn train(&self, out: &str, more: &[&str]) -> Command {
        self.train_by(2, out, more)
    }

    /// [`Workshop::train`] with another adapter.
    pub fn train_method(&self, out: &str, adapter: &[&str], more: &[&str]) -> Command {
        self.train_of(2, out, adapter, more)
    }

    /// [`Workshop::train`] with so many batches a step.
    pub fn train_by(&self, batches: usize, out: &str, more: &[&str]) -> Command {
        self.train_of(batches, out, &["--lora-r", "4", "--lora-dropout", "0.1"], more)
    }

    /// [`Workshop::train`] with so many batches a step, and another adapter.
    pub fn train_of(&self, batches: usize, out: &str, adapter: &[&str], more: &[&str]) -> Command {
        let batches = batches.to_string();
        let mut arguments = vec!["train", "--model", "model", "--data", "train.jsonl", "--out", out];
        arguments.extend(adapter);
        arguments.extend(["--max-length", "32", "--batch-size", "2"]);
        arguments.extend(["--gradient-accumulation-steps", &batches, "--learning-rate", "5e-3", "--weight-decay", "0.01"]);
        arguments.extend(more);
        self.command(&arguments)
    }

    /// Puts a model of the reference into the folder, by its name and with the words of [`tokenizer`].
    pub fn put_model(&self, of: &str, name: &str) {
        let (from, to) = (fixtures().join(of).join(name), self.path(name));
        std::fs::create_dir(&to).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(from.join(file), to.join(file)).unwrap();
        }
        std::fs::write(to.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    }

    /// The objects of `out/metrics.jsonl`.
    pub fn metrics(&self, out: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(out).join("metrics.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
    }

    /// Whole lines of `out/metrics.jsonl` so far, while a run writes it.
    pub fn metrics_lines(&self, out: &str) -> usize {
        let bytes = std::fs::read(self.path(out).join("metrics.jsonl")).unwrap_or_default();
        bytes.iter().filter(|&&byte| byte == b'\n').count()
    }

    /// What two runs have in common if they did the same: each step's numbers (not its speed), as text, and the adapter's bytes.
    pub fn result(&self, out: &str) -> (Vec<String>, Vec<u8>) {
        let keys = ["step", "loss", "learning_rate", "grad_norm", "tokens", "supervised_tokens", "check", "eval_loss"];
        let steps = self.metrics(out).iter().map(|step| keys.map(|key| step[key].to_string()).join(" ")).collect();
        // As PEFT or as AdapterHub names it.
        let adapter = |name: &str| std::fs::read(self.path(out).join(name));
        (steps, adapter("adapter_model.safetensors").or_else(|_| adapter("adapter.safetensors")).unwrap_or_default())
    }

    /// Names in a folder, sorted; empty if there is none.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(folder)) else { return Vec::new() };
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A tokenizer for models of 96 tokens: three special ones, and the words `w3` to `w95`.
pub fn tokenizer() -> Value {
    let words = (3..96).map(|id| (format!("w{id}"), json!(id)));
    let special = ["<unk>", "<s>", "</s>"].into_iter().zip(0..).map(|(token, id)| (token.to_string(), json!(id)));
    let vocab: serde_json::Map<String, Value> = special.chain(words).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" },
    })
}

/// The tiny model that the tests use.
pub fn fixture() -> PathBuf {
    fixtures().join("tiny/grouped_tied")
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference")
}

/// A record that can be learned: token t + 1 follows from token t and the record's stride. The first two are not supervised.
fn record(number: usize) -> Value {
    let length = 6 + number * 5 % 19;
    let ids: Vec<usize> = (0..length).map(|at| 3 + (7 * number + (1 + number % 3) * at) % 90).collect();
    let labels: Vec<i64> = ids.iter().enumerate().map(|(at, &id)| if at < 2 { -100 } else { id as i64 }).collect();
    json!({ "input_ids": ids, "labels": labels })
}

/// Runs to the end and expects this exit code; gives standard output and standard error.
pub fn run(mut command: Command, code: i32) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(status.code(), Some(code), "{command:?}\n{out}\n{err}");
    assert!(!err.contains("panicked"), "{err}");
    (out, err)
}
