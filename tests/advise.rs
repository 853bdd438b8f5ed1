//! Advice from the outside: what is printed can be pasted, and its figures are those of the run.

mod runs;

use std::process::Command;

use runs::{Workshop, program, run};
use serde_json::{Value, json};

fn advise(shop: &Workshop, arguments: &[&str]) -> Command {
    let mut words = vec!["advise", "--model", "model", "--no-autotune"];
    words.extend(arguments);
    let mut command = shop.command(&words);
    command.env_remove("GRAFTLING_LOG");
    command
}

fn advice(shop: &Workshop, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    serde_json::from_str(&run(advise(shop, &arguments), 0).0).unwrap()
}

/// The printed command in a shell, with more options.
fn pasted(shop: &Workshop, advice: &Value, more: &str) -> Command {
    let program = format!("'{}' train", env!("CARGO_BIN_EXE_graftling"));
    let line = advice["command"].as_str().unwrap().replacen("graftling train", &program, 1);
    let mut command = Command::new("sh");
    command.current_dir(shop.path("")).arg("-c").arg(format!("{line} {more}")).env_remove("GRAFTLING_LOG");
    command
}

fn choice<'a>(advice: &'a Value, option: &str) -> &'a Value {
    advice["choices"].as_array().unwrap().iter().find(|choice| choice["option"] == option).unwrap_or(&Value::Null)
}

#[cfg(unix)]
#[test]
fn the_command_can_be_pasted_and_needs_what_was_said() {
    let shop = Workshop::new();
    let advice = advice(&shop, &["--data", "train.jsonl"]);
    // A random model gives no token of 96 less than 1 % by much, nor any of them much more.
    let base_loss = advice["looks"]["base_loss"].as_f64().unwrap();
    assert!((base_loss - 96f64.ln()).abs() < 5.0, "{base_loss}");
    assert_eq!(advice["looks"]["records"], 24);
    assert!(advice["seconds"].as_f64().unwrap() > 0.0 && advice["flops_per_second"].as_f64().unwrap() > 0.0);
    let (preview, _) = run(pasted(&shop, &advice, "--dry-run"), 0);
    let bytes: u64 = advice["memory"].as_object().unwrap().values().map(|class| class.as_u64().unwrap()).sum();
    assert!(preview.contains(&format!("GPU memory: {:.0} MiB", bytes as f64 / f64::from(1 << 20))), "{preview}");
    assert!(preview.contains(&format!("{} parameters", advice["parameters"])), "{preview}");
    assert!(preview.contains(&format!("; {} steps", advice["steps"])), "{preview}");
    // Whatever is recommended has its reasons.
    for choice in advice["choices"].as_array().unwrap() {
        for key in ["why", "evidence", "if_wrong"] {
            assert!(choice[key].as_str().unwrap().len() > 20, "{choice}");
        }
    }
    let (text, _) = run(advise(&shop, &["--data", "train.jsonl"]), 0);
    assert!(text.contains(advice["command"].as_str().unwrap()), "{text}");
}

#[test]
fn where_the_evidence_is_thin_there_is_a_sweep_that_runs() {
    let shop = Workshop::new();
    let (text, _) = run(advise(&shop, &["--data", "train.jsonl", "--sweep", "sweep.toml"]), 0);
    assert!(text.contains("the evidence is thin: sweep this"), "{text}");
    let mut dry = program();
    dry.current_dir(shop.path("")).args(["sweep", "--config", "sweep.toml", "--out", "sweep", "--dry-run", "--json"]);
    let listed: Value = serde_json::from_str(&run(dry, 0).0).unwrap();
    assert!(listed["arms"].as_array().unwrap().len() >= 2, "{listed}");
}

/// Memory decides what rests how, and a budget that nothing fits is refused.
#[test]
fn less_memory_is_met_by_smaller_choices_or_refused() {
    let shop = Workshop::new();
    let free = advice(&shop, &["--data", "train.jsonl"]);
    let needed =
        |advice: &Value| advice["memory"].as_object().unwrap().values().map(|class| class.as_u64().unwrap()).sum::<u64>();
    let tight = format!("{}", needed(&free) * 9 / 10);
    let tight = advice(&shop, &["--data", "train.jsonl", "--memory-budget", &tight]);
    assert!(needed(&tight) <= needed(&free) * 9 / 10);
    assert!(!choice(&tight, "memory_budget").is_null(), "{tight}");
    let (_, err) = run(advise(&shop, &["--data", "train.jsonl", "--memory-budget", "10kB"]), 2);
    assert!(err.contains("--memory-budget: even with nf4 weights and one row a batch"), "{err}");
}

/// Answers that are taken from the prompt, and answers that repeat each other, are told apart.
#[test]
fn measures_tell_kinds_of_data_apart() {
    let shop = Workshop::new();
    let record = |prompt: Vec<usize>, answer: Vec<usize>| {
        let labels: Vec<i64> = prompt.iter().map(|_| -100).chain(answer.iter().map(|&id| id as i64)).collect();
        let input_ids = [prompt, answer].concat();
        json!({ "input_ids": input_ids, "labels": labels })
    };
    // Each record has tokens of its own order: a stride that no other has.
    let run_of =
        |number: usize, from: usize| (0..8).map(|at| 3 + (from + number * 7 + at * (1 + number)) % 90).collect::<Vec<_>>();
    let copied: Vec<Value> = (0..8).map(|number| record(run_of(number, 0), run_of(number, 0))).collect();
    let same: Vec<Value> = (0..8).map(|number| record(run_of(number, 0), run_of(50, 11))).collect();
    shop.write_records("copied.jsonl", &copied);
    shop.write_records("same.jsonl", &same);
    let of = |file: &str| advice(&shop, &["--data", file]);
    let (copied, same) = (of("copied.jsonl"), of("same.jsonl"));
    assert_eq!((copied["looks"]["copied"].as_f64(), same["looks"]["repeated"].as_f64()), (Some(1.0), Some(1.0)));
    let kinds = |advice: &Value| advice["kinds"].to_string();
    assert!(kinds(&copied).contains("extraction") && !kinds(&same).contains("extraction"), "{copied} {same}");
    assert!(kinds(&same).contains("format") && !kinds(&copied).contains("format"), "{copied} {same}");
}
