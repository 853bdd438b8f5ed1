//! The choice of kernels by measurement: what is on disk is obeyed, and whatever is wrong with it costs a new measurement and no more.

mod common;
#[cfg(target_os = "linux")]
mod runs;

use graftling::gpu::Device;
use graftling::graph::{Graph, Origin, Rows, TensorType};
use graftling::kernel::{Arithmetic, Class, Layout};
use graftling::ops::matmul::Matmul;
use graftling::plan::autotune::{BUDGET, Choice, Decided, Decision, Record, Sources, tune};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn device() -> Device {
    Device::open(std::env::var("GRAFTLING_TEST_DEVICE").ok().as_deref()).unwrap()
}

/// One product, `[64, 96] [96, 96]^T`.
fn graph() -> Graph {
    let mut graph = Graph::new();
    let a = graph.leaf("a", TensorType::f32(Rows::Tokens(50), 96), Origin::Input);
    let b = graph.leaf("b", TensorType::f32(Rows::Fixed(96), 96), Origin::Weight);
    Matmul { layout: Layout::NT, scale: 1.0 }.append(&mut graph, [a, b], None, "product").unwrap();
    graph
}

const NAME: &str = "NT 64x96x96 f32";

fn class() -> Class {
    Class { layout: Layout::NT, size: [64, 96, 96], dtype: graftling::graph::DType::F32, arithmetic: Arithmetic::F32 }
}

/// Tunes a fresh device; gives what was chosen for [`class`], and what stands for it in the table.
fn tuned(folder: &Path, recorded: Option<&Record>, budget: Duration) -> (Option<Choice>, Record, Option<String>) {
    let sources = Sources { measure: true, folder: Some(folder.to_path_buf()), recorded, budget, progress: &|_, _| {} };
    let Decision { tuning, mut choices, record } = tune(&device(), &[graph()], &sources);
    assert!(choices.len() <= 1);
    (choices.pop(), record, tuning.get(&class()).map(str::to_string))
}

/// The candidates on this device, if it has more than one.
fn candidates() -> Option<Vec<&'static str>> {
    let candidates = class().candidates(&device().facts);
    if candidates.len() < 2 {
        common::not_run::not_run(&format!("this device has only {candidates:?} for {NAME}"));
        return None;
    }
    Some(candidates)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// The one file in the folder, changed.
fn edit(folder: &Path, change: impl Fn(&mut Value)) {
    let path = files(folder).pop().unwrap();
    let mut contents: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut contents);
    std::fs::write(path, contents.to_string()).unwrap();
}

#[test]
fn what_is_measured_is_a_candidate_and_is_kept() {
    let Some(candidates) = candidates() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (choice, record, held) = tuned(folder.path(), None, BUDGET);
    let choice = choice.unwrap();
    assert_eq!((choice.class, choice.share, choice.decided), (class(), 1.0, Decided::Now));
    assert_eq!(choice.rule, candidates[0]);
    assert!(candidates.contains(&choice.entry.choice.as_str()));
    assert!(choice.entry.nanoseconds.contains_key(candidates[0]), "the rule's form is timed");
    assert!(choice.entry.nanoseconds.iter().all(|(id, time)| candidates.contains(&id.as_str()) && *time > 0));
    assert_eq!(held.as_ref(), Some(&choice.entry.choice));
    assert_eq!(record.choices[NAME], choice.entry.choice);
    assert_eq!(files(folder.path()).len(), 1);

    let (again, second_record, _) = tuned(folder.path(), None, BUDGET);
    let again = again.unwrap();
    assert_eq!((again.decided, again.entry), (Decided::Before, choice.entry));
    assert_eq!(second_record, record);
}

#[test]
fn the_file_is_obeyed_even_if_it_names_the_slowest() {
    let Some(candidates) = candidates() else { return };
    let folder = tempfile::tempdir().unwrap();
    tuned(folder.path(), None, Duration::ZERO);
    for id in candidates {
        edit(folder.path(), |contents| contents["classes"][NAME]["choice"] = json!(id));
        let (choice, record, held) = tuned(folder.path(), None, BUDGET);
        assert_eq!(choice.unwrap().decided, Decided::Before);
        assert_eq!((held.as_deref(), record.choices[NAME].as_str()), (Some(id), id));
    }
}

#[test]
fn without_time_the_rule_stays_and_that_is_kept_too() {
    let Some(candidates) = candidates() else { return };
    let folder = tempfile::tempdir().unwrap();
    for decided in [Decided::OutOfTime, Decided::Before] {
        let (choice, ..) = tuned(folder.path(), None, Duration::ZERO);
        let choice = choice.unwrap();
        assert_eq!((choice.decided, choice.entry.choice.as_str()), (decided, candidates[0]));
        assert!(choice.entry.nanoseconds.is_empty());
    }
}

#[test]
fn a_file_that_is_stale_damaged_or_foreign_is_made_anew() {
    let Some(candidates) = candidates() else { return };
    let folder = tempfile::tempdir().unwrap();
    let made_anew = |what: &str| {
        let (choice, ..) = tuned(folder.path(), None, Duration::ZERO);
        assert_eq!(choice.unwrap().decided, Decided::OutOfTime, "{what}");
        let (choice, ..) = tuned(folder.path(), None, Duration::ZERO);
        assert_eq!(choice.unwrap().decided, Decided::Before, "after: {what}");
    };
    made_anew("no file");
    edit(folder.path(), |contents| contents["classes"][NAME]["choice"] = json!("warp_matmul"));
    made_anew("an unknown form");
    for key in ["adapter", "driver_info", "kernels"] {
        edit(folder.path(), |contents| contents["subject"][key] = json!("another"));
        made_anew(key);
    }
    let path = files(folder.path()).pop().unwrap();
    let whole = std::fs::read(&path).unwrap();
    for damaged in [&whole[..whole.len() / 2], b"", b"\xff\x00", b"[]", b"{\"classes\": 7}"] {
        std::fs::write(&path, damaged).unwrap();
        made_anew("damaged");
    }
    assert_eq!(files(folder.path()).len(), 1, "nothing is left behind");

    // What others have measured stays.
    edit(folder.path(), |contents| {
        let other = contents["classes"][NAME].clone();
        contents["classes"] = json!({ "NN 8x8x8 f32": other });
    });
    tuned(folder.path(), None, Duration::ZERO);
    edit(folder.path(), |contents| assert_eq!(contents["classes"].as_object().unwrap().len(), 2));
    assert!(candidates.len() > 1);
}

#[test]
fn a_folder_that_cannot_be_written_costs_only_time() {
    let Some(candidates) = candidates() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    let (choice, _, held) = tuned(&file.join("cache"), None, Duration::ZERO);
    assert_eq!(choice.unwrap().decided, Decided::OutOfTime);
    assert_eq!(held.as_deref(), Some(candidates[0]));
}

#[test]
fn a_run_that_goes_on_takes_its_own_choices_and_not_those_of_the_file() {
    let Some(candidates) = candidates() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (_, record, _) = tuned(folder.path(), None, Duration::ZERO);
    assert_eq!(record.choices[NAME], candidates[0]);
    edit(folder.path(), |contents| contents["classes"][NAME]["choice"] = json!(candidates[1]));
    let name = |record: &mut Record, id: &str| drop(record.choices.insert(NAME.to_string(), id.to_string()));
    let with = |change: &dyn Fn(&mut Record)| {
        let mut record = record.clone();
        change(&mut record);
        tuned(folder.path(), Some(&record), Duration::ZERO)
    };
    assert_eq!(with(&|_| {}).2.as_deref(), Some(candidates[0]));
    let last = candidates[candidates.len() - 1];
    let (_, kept, held) = with(&|record| name(record, last));
    assert_eq!((held.as_deref(), kept.choices[NAME].as_str()), (Some(last), last));
    assert_eq!(with(&|record| name(record, "warp_matmul")).2, None, "unknown: the rule");
    assert_eq!(with(&|record| record.choices.clear()).2, None, "made by the rule: the rule");
    let elsewhere = with(&|record| record.subject = "another GPU".to_string());
    assert_eq!(elsewhere.2.as_deref(), Some(candidates[1]), "made on another device: this device's own choice");
}

#[test]
fn without_measurement_the_device_has_no_table() {
    let folder = tempfile::tempdir().unwrap();
    let folder = Some(folder.path().to_path_buf());
    let sources = Sources { measure: false, folder, recorded: None, budget: BUDGET, progress: &|_, _| {} };
    let Decision { tuning, choices, record } = tune(&device(), &[graph()], &sources);
    assert!(choices.is_empty() && record.choices.is_empty());
    assert_eq!(tuning.get(&class()), None);
}

/// The real program: a run measures once, obeys the file, records what it used, and goes on with that whatever the file then says.
#[cfg(target_os = "linux")]
#[test]
fn a_resumed_run_uses_the_kernels_of_its_checkpoint() {
    let shop = runs::Workshop::new();
    let train = |out: &str, steps: &str, more: &[&str]| {
        let mut arguments = vec!["train", "--model", "model", "--data", "train.jsonl", "--out", out, "--lora-r", "4"];
        arguments.extend(["--max-length", "32", "--batch-size", "2", "--lr-schedule", "constant", "--learning-rate", "5e-3"]);
        arguments.extend(["--max-steps", steps, "--save-steps", "2"]);
        arguments.extend(more);
        let mut command = shop.tuned(&arguments);
        command.env("GRAFTLING_LOG", "graftling=info");
        runs::run(command, 0).1
    };
    train("first", "2", &[]);
    let folder = shop.path("cache/graftling");
    let measured = std::fs::read(files(&folder).pop().unwrap()).unwrap();
    let mut changed = 0;
    let text: Value = serde_json::from_slice(&measured).unwrap();
    for (name, entry) in text["classes"].as_object().unwrap() {
        let times = entry["nanoseconds"].as_object().unwrap();
        let Some(other) = times.keys().find(|id| entry["choice"] != **id) else { continue };
        edit(&folder, |contents| contents["classes"][name]["choice"] = json!(other));
        changed += 1;
    }
    if changed == 0 {
        return common::not_run::not_run("this device has one kernel for each product");
    }
    let others = train("others", "4", &[]);
    train("resumed", "2", &[]);
    std::fs::write(files(&folder).pop().unwrap(), measured).unwrap();
    let resumed = train("resumed", "4", &["--resume"]);
    let of = |out: &str, step: &str| -> Value {
        let path = shop.path(out).join(format!("checkpoint-{step}/state.json"));
        serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap()["kernels"].clone()
    };
    assert_ne!(of("first", "2"), of("others", "4"), "the file is obeyed");
    assert_eq!(of("resumed", "2"), of("others", "4"));
    assert_eq!(of("resumed", "4"), of("others", "4"), "the checkpoint goes before the file");
    assert!(!others.contains("as the run so far"), "{others}");
    assert!(resumed.contains("as the run so far") && !resumed.contains("measured"), "{resumed}");
    assert_eq!(shop.result("resumed"), shop.result("others"), "bit by bit");

    let without = train("resumed", "5", &["--resume", "--no-autotune"]);
    assert!(without.contains("may differ in the last bits"), "{without}");
    assert_eq!(of("resumed", "5")["choices"], json!({}));
}
