//! A run goes on with the numbers it had, or says why it cannot: checkpoints that are damaged or of another version, other weights,
//! other held-out data, another day.

use std::fs;
use std::path::Path;

use graftling::train::keep::{folder::FILES, sums};
use serde_json::{Value, json};

use crate::runs::{Workshop, run};

const STEPS: [&str; 4] = ["--max-steps", "6", "--save-steps", "2"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    STEPS.into_iter().chain(more.iter().copied()).collect()
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Files of `folder` with their content, but for the lock.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<(String, Vec<u8>)> = entries
        .filter(|entry| entry.file_type().unwrap().is_file() && entry.file_name() != ".graftling.lock")
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// Every kind of damage to every file of the newest checkpoint: the one before is gone on from, and the result is the same.
#[test]
fn a_damaged_checkpoint_is_passed_over_and_the_one_before_is_good() {
    let shop = Workshop::new();
    run(shop.train("out", &STEPS), 0);
    let expected = shop.result("out");
    let zeroed = |bytes: &[u8]| {
        let mut zeroed = bytes.to_vec();
        // Past the header of a file of tensors.
        let from = bytes.len() - bytes.len() / 4;
        zeroed[from..].fill(0);
        zeroed
    };
    for name in FILES.into_iter().chain([sums::SUMS]) {
        let path = shop.path("out/checkpoint-6").join(name);
        let whole = fs::read(&path).unwrap();
        for damaged in [zeroed(&whole), Vec::new()] {
            fs::write(&path, damaged).unwrap();
            let (_, err) = run(shop.train("out", &with(&["--resume"])), 0);
            assert!(err.contains("checkpoint-6 is passed over") && err.contains("going on after step 4"), "{name}: {err}");
            assert_eq!(shop.result("out"), expected, "{name}");
            let aside = shop.names("out").into_iter().find(|name| name.starts_with("damaged-")).expect("nothing is lost");
            fs::remove_dir_all(shop.path("out").join(aside)).unwrap();
        }
    }
    // Right digests of wrong numbers.
    let path = shop.path("out/checkpoint-6/optimizer.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    sums::write(&shop.path("out/checkpoint-6"), &FILES).unwrap();
    let (_, err) = run(shop.train("out", &with(&["--resume"])), 0);
    assert!(err.contains("checkpoint-6 is passed over") && err.contains("NaN"), "{err}");
    assert_eq!(shop.result("out"), expected);
    let mut bytes = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[header..].fill(0);
    fs::write(&path, bytes).unwrap();
    sums::write(&shop.path("out/checkpoint-6"), &FILES).unwrap();
    let (_, err) = run(shop.train("out", &with(&["--resume"])), 0);
    assert!(err.contains("checkpoint-6 is passed over") && err.contains("all zero"), "{err}");
    assert_eq!(shop.result("out"), expected);
    // What a power cut leaves: names without content. Whose the adapter in the folder is, nobody can tell any more: it is kept.
    let finished = fs::read(shop.path("out/adapter_model.safetensors")).unwrap();
    for name in FILES.into_iter().chain([sums::SUMS]) {
        fs::write(shop.path("out/checkpoint-6").join(name), "").unwrap();
    }
    let (_, err) = run(shop.train("out", &with(&["--resume"])), 0);
    assert!(err.contains("checkpoint-6 is passed over") && err.contains("going on after step 4"), "{err}");
    assert_eq!(shop.result("out"), expected);
    assert_eq!(fs::read(shop.path("out/adapter_model.safetensors.1")).unwrap(), finished);
}

#[test]
fn where_no_checkpoint_is_good_nothing_begins_anew_and_nothing_is_touched() {
    let shop = Workshop::new();
    run(shop.train("out", &STEPS), 0);
    let state = |step: u64| shop.path(&format!("out/checkpoint-{step}/state.json"));
    let whole = [4, 6].map(|step| fs::read(state(step)).unwrap());
    let refused = |words: &[&str]| {
        let before = files(&shop.path("out"));
        for more in [&[][..], &["--resume"]] {
            let (_, err) = run(shop.train("out", &with(more)), 2);
            assert_eq!(files(&shop.path("out")), before);
            for word in words {
                assert!(err.contains(word), "{more:?}: {word} is not in: {err}");
            }
        }
    };
    // All damaged; of a newer format, where an older one is good; of the format before digests.
    [4, 6].into_iter().for_each(|step| fs::write(state(step), "").unwrap());
    refused(&["checkpoint-4", "checkpoint-6", "another --out", "--overwrite"]);
    fs::write(state(4), &whole[0]).unwrap();
    fs::write(state(6), &whole[1]).unwrap();
    edit(&state(6), |state| state["format_version"] = json!(3));
    let (_, err) = run(shop.train("out", &with(&["--resume"])), 2);
    assert!(err.contains("checkpoint-6, format version 3 of a newer graftling") && err.contains("--init-adapter"), "{err}");
    edit(&state(6), |state| state["format_version"] = json!(1));
    let (_, err) = run(shop.train("out", &with(&["--resume"])), 2);
    assert!(err.contains("checkpoint-6, format version 1 of an older graftling"), "{err}");
    assert!(state(4).is_file() && state(6).is_file());
    // Told to, a run begins anew and puts them aside.
    [4, 6].into_iter().for_each(|step| fs::write(state(step), "").unwrap());
    run(shop.train("out", &with(&["--overwrite"])), 0);
    assert!(shop.path("out/damaged-checkpoint-6/optimizer.safetensors").is_file());
    assert!(shop.path("out/checkpoint-6/state.json").is_file());
}

#[test]
fn absurd_numbers_in_a_state_are_refused() {
    let shop = Workshop::new();
    run(shop.train("one", &["--max-steps", "2"]), 0);
    for (at, key) in [("/step", u64::MAX), ("/step", u64::MAX - 1), ("/position/epoch", u64::MAX), ("/position/index", u64::MAX)]
    {
        let out = format!("{}-{key}", at.replace('/', "-"));
        let name = if at == "/step" { format!("checkpoint-{key}") } else { "checkpoint-2".to_string() };
        fs::create_dir(shop.path(&out)).unwrap();
        let folder = shop.path(&out).join(name);
        let copied = std::process::Command::new("cp").arg("-r").arg(shop.path("one/checkpoint-2")).arg(&folder).status();
        assert!(copied.unwrap().success());
        edit(&folder.join("state.json"), |state| *state.pointer_mut(at).unwrap() = json!(key));
        sums::write(&folder, &FILES).unwrap();
        let (_, err) = run(shop.train(&out, &["--max-steps", "2", "--resume"]), 2);
        assert_eq!(err.matches("error:").count(), 1, "{err}");
    }
    let (_, err) = run(shop.train("never", &["--epochs", "1000000000000"]), 2);
    assert!(err.contains("--epochs") && err.contains("--max-steps"), "{err}");
    let (_, err) = run(shop.train("never", &["--epochs", "1000000000000", "--no-packing"]), 2);
    assert!(err.contains("--epochs"), "{err}");
    let (_, err) = run(shop.train("never", &["--max-steps", "18446744073709551615"]), 2);
    assert!(err.contains("--max-steps"), "{err}");
    assert!(!shop.path("never").exists());
}

/// The first, a middle and the last byte of every tensor's data, one at a time.
#[test]
fn other_base_weights_are_refused_by_name() {
    let shop = Workshop::new();
    run(shop.train("out", &STEPS), 0);
    let path = shop.path("model/model.safetensors");
    let whole = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let entries: serde_json::Map<String, Value> = serde_json::from_slice(&whole[8..8 + header]).unwrap();
    let (before, mut tried) = (files(&shop.path("out")), 0);
    // Of each kind of tensor one is enough; the norms are looked at before the weights are on the device.
    for name in [
        "model.embed_tokens.weight",
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.2.mlp.down_proj.weight",
        "model.norm.weight",
    ] {
        let at = |index: usize| 8 + header + entries[name]["data_offsets"][index].as_u64().unwrap() as usize;
        // The lowest byte of a value, so that it stays a number.
        for place in [at(0), (at(0) + at(1)) / 8 * 4, at(1) - 4] {
            let place = at(0) + (place - at(0)) / 4 * 4;
            let mut other = whole.clone();
            other[place] ^= 1;
            fs::write(&path, other).unwrap();
            let (_, err) = run(shop.train("out", &with(&["--resume"])), 2);
            assert!(err.contains("model") && err.contains("(content)") && err.contains("another --out"), "{name}: {err}");
            assert_eq!(files(&shop.path("out")), before, "{name}");
            tried += 1;
        }
    }
    assert_eq!(tried, 12);
    fs::write(&path, whole).unwrap();
    run(shop.train("out", &with(&["--resume"])), 0);
}

#[test]
fn other_held_out_data_are_refused_by_name() {
    let shop = Workshop::new();
    run(shop.train("out", &with(&["--eval-data", "held-out.jsonl"])), 0);
    for more in [&["--eval-data", "train.jsonl", "--resume"][..], &["--resume"]] {
        let (_, err) = run(shop.train("out", &with(more)), 2);
        assert!(err.contains("eval_data (content) was "), "{err}");
    }
    run(shop.train("out", &with(&["--eval-data", "held-out.jsonl", "--resume"])), 0);
}

/// A template that prints the date gives other tokens tomorrow; the run goes on with those of the day on which it began.
/// Questions between the steps change no other number; their answers are the same after a resume; other questions, or other expectations,
/// are another run.
#[test]
fn questions_are_answered_again_after_a_resume_and_others_are_refused_by_name() {
    let shop = Workshop::new();
    let asks = ["--check-data", "questions.jsonl", "--check-steps", "2", "--check-max-new-tokens", "5"];
    let (_, err) = run(shop.train("whole", &with(&asks)), 0);
    assert!(err.contains("step 6: ") && err.contains("of 9 questions answered right (always 3 of 3, at-times "), "{err}");
    let (steps, adapter) = shop.result("whole");
    let asked: Vec<bool> = shop.metrics("whole").iter().map(|step| !step["check"].is_null()).collect();
    assert_eq!(asked, [false, true, false, true, false, true]);
    assert_eq!(shop.metrics("whole")[1]["check"]["groups"]["never"], json!({ "right": 0, "of": 3 }));
    assert!(fs::read_to_string(shop.path("whole/loss.svg")).unwrap().contains("% of questions right, at the end "));

    run(shop.train("without", &STEPS), 0);
    assert_eq!(shop.result("without").1, adapter, "questions have changed the run");

    run(shop.train("resumed", &with(&asks)), 0);
    fs::remove_dir_all(shop.path("resumed/checkpoint-6")).unwrap();
    fs::remove_file(shop.path("resumed/adapter_model.safetensors")).unwrap();
    let (_, err) = run(shop.train("resumed", &with(&[asks.as_slice(), &["--resume"]].concat())), 0);
    assert!(err.contains("going on after step 4"), "{err}");
    assert_eq!(shop.result("resumed"), (steps, adapter));

    // How often is free; what is asked, and what is expected, is not.
    let again = |more: &[&str], code| run(shop.train("resumed", &with(&[more, &["--resume"]].concat())), code).1;
    again(&["--check-data", "questions.jsonl", "--check-max-new-tokens", "5", "--check-steps", "3"], 0);
    let none = again(&[], 2);
    assert!(none.contains("check_data (content) was ") && none.contains(" and is nothing"), "{none}");
    assert!(again(&["--check-data", "questions.jsonl", "--check-max-new-tokens", "6"], 2).contains("check_data (content) was "));
    let text = fs::read_to_string(shop.path("questions.jsonl")).unwrap();
    fs::write(shop.path("questions.jsonl"), text.replacen("w[4-9]", "w[3-9]", 1)).unwrap();
    assert!(again(&asks, 2).contains("check_data (content) was "));
    assert!(again(&["--check-data", "train.jsonl"], 2).contains("no record says what its answer is expected to be"));
}

#[test]
fn every_method_goes_on_with_the_same_bits() {
    let shop = Workshop::new();
    let methods: [&[&str]; 6] = [
        &["--use-dora"],
        &["--init-lora-weights", "eva", "--rank-pattern", "q_proj=2"],
        &["--init-lora-weights", "pissa"],
        &["--init-lora-weights", "olora", "--rank-pattern", "q_proj=2"],
        &["--loraplus-lr-ratio", "8"],
        &["--use-dora", "--use-rslora", "--loraplus-lr-ratio", "4", "--init-lora-weights", "orthogonal"],
    ];
    let plain = {
        run(shop.train("plain", &STEPS), 0);
        shop.result("plain").1
    };
    for (number, method) in methods.into_iter().enumerate() {
        let out = format!("method-{number}");
        run(shop.train(&out, &with(method)), 0);
        let expected = shop.result(&out);
        assert!(expected.0.len() == 6 && expected.1 != plain, "{method:?} does nothing");
        fs::remove_dir_all(shop.path(&out).join("checkpoint-6")).unwrap();
        fs::remove_file(shop.path(&out).join("adapter_model.safetensors")).unwrap();
        let (_, err) = run(shop.train(&out, &with(&[method, &["--resume"]].concat())), 0);
        assert!(err.contains("going on after step 4"), "{method:?}: {err}");
        assert_eq!(shop.result(&out), expected, "{method:?}");
        // Without the method it is another run.
        let (_, err) = run(shop.train(&out, &with(&["--resume"])), 2);
        assert!(err.contains(" was ") && err.contains("nothing"), "{method:?}: {err}");
    }
}

/// Bottleneck adapters: a run that is gone on with, one that is killed as it writes, and one from an adapter with dropout.
#[test]
fn bottlenecks_go_on_with_the_same_bits() {
    let shop = Workshop::new();
    let methods: [&[&str]; 3] = [
        &["--adapter-method", "houlsby", "--layers", "1-2"],
        &["--adapter-method", "pfeiffer", "--bottleneck-size", "6", "--non-linearity", "gelu"],
        &["--adapter-method", "parallel"],
    ];
    for (number, method) in methods.into_iter().enumerate() {
        let out = format!("method-{number}");
        let train = |out: &str, more: &[&str]| shop.train_method(out, method, &with(more));
        run(train(&out, &[]), 0);
        let expected = shop.result(&out);
        let files = ["SHA256SUMS", "adapter.safetensors", "adapter_config.json", "optimizer.safetensors", "state.json"];
        assert_eq!(shop.names(&format!("{out}/checkpoint-6")), files);
        assert!(expected.0.len() == 6 && !expected.1.is_empty());
        fs::remove_dir_all(shop.path(&out).join("checkpoint-6")).unwrap();
        fs::remove_file(shop.path(&out).join("adapter.safetensors")).unwrap();
        let (_, err) = run(train(&out, &["--resume"]), 0);
        assert!(err.contains("going on after step 4"), "{method:?}: {err}");
        assert_eq!(shop.result(&out), expected, "{method:?}");
        // A damaged file is seen, and the checkpoint before is good.
        let path = shop.path(&out).join("checkpoint-6/adapter.safetensors");
        let mut damaged = fs::read(&path).unwrap();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(&path, damaged).unwrap();
        let (_, err) = run(train(&out, &["--resume"]), 0);
        assert!(err.contains("checkpoint-6 is passed over") && err.contains("going on after step 4"), "{err}");
        assert_eq!(shop.result(&out), expected, "{method:?}");
        // Another method is another run.
        let (_, err) = run(shop.train(&out, &with(&["--resume"])), 2);
        assert!(err.contains("lora_r was nothing") && err.contains("reduction_factor was "), "{method:?}: {err}");
    }
    // Dropout comes with an adapter; a further run from it draws the same masks again.
    fs::create_dir(shop.path("start")).unwrap();
    for name in ["adapter.safetensors", "adapter_config.json"] {
        fs::copy(shop.path("method-0").join(name), shop.path("start").join(name)).unwrap();
    }
    edit(&shop.path("start/adapter_config.json"), |config| config["config"]["dropout"] = json!(0.25));
    let further = |out: &str, more: &[&str]| shop.train_method(out, &["--init-adapter", "start"], &with(more));
    run(further("further", &[]), 0);
    let expected = shop.result("further");
    fs::remove_dir_all(shop.path("further/checkpoint-6")).unwrap();
    fs::remove_file(shop.path("further/adapter.safetensors")).unwrap();
    run(further("further", &["--resume"]), 0);
    assert_eq!(shop.result("further"), expected);
    edit(&shop.path("start/adapter_config.json"), |config| config["config"]["dropout"] = json!(0.0));
    run(further("without", &[]), 0);
    assert_ne!(shop.result("without").0, expected.0, "dropout does nothing");
}

/// What only one kind of adapter has is refused for the other, and a bottleneck is neither merged nor exported.
#[test]
fn options_of_another_method_are_refused_by_name() {
    let shop = Workshop::new();
    let refused = |method: &[&str], expected: &str| {
        let (_, err) = run(shop.train_method("out", method, &STEPS), 2);
        assert!(err.contains(expected), "{method:?}: {err}");
    };
    refused(&["--adapter-method", "houlsby", "--lora-r", "4"], "--lora-r: is for LoRA, and the method is houlsby");
    refused(&["--adapter-method", "parallel", "--use-dora"], "--use-dora: is for LoRA");
    refused(&["--adapter-method", "pfeiffer", "--target-modules", "mlp"], "--target-modules: is for LoRA");
    refused(&["--bottleneck-size", "4"], "--bottleneck-size: is for bottleneck adapters, and the method is lora");
    refused(
        &["--adapter-method", "houlsby", "--bottleneck-size", "4", "--reduction-factor", "2"],
        "--bottleneck-size: both this",
    );
    refused(&["--adapter-method", "houlsby", "--non-linearity", "prelu"], "`prelu` is none of relu, ");
    refused(&["--adapter-method", "houlsby", "--layers", "7"], "--layers: layer 7 does not exist");
    run(shop.train_method("out", &["--adapter-method", "pfeiffer"], &STEPS), 0);
    let again = ["--init-adapter", "out", "--adapter-method", "houlsby"];
    let (_, err) = run(shop.train_method("again", &again, &STEPS), 2);
    assert!(err.contains("--adapter-method: the adapter of --init-adapter out has the method pfeiffer"), "{err}");
    let (_, err) = run(shop.train_method("again", &["--init-adapter", "out", "--bottleneck-size", "7"], &STEPS), 2);
    assert!(err.contains("--bottleneck-size: the adapter of --init-adapter out has bottlenecks of {2}"), "{err}");
    run(shop.train_method("again", &["--init-adapter", "out", "--bottleneck-size", "2"], &STEPS), 0);
    let model = ["--model", "model", "--adapter", "out"];
    let (_, err) = run(shop.command(&[&["merge"], &model[..], &["--out", "merged"]].concat()), 2);
    assert!(err.contains("out: is a bottleneck adapter") && err.contains("--adapter"), "{err}");
    for kind in ["gguf", "gguf-adapter", "safetensors", "mlx-adapter"] {
        let (_, err) = run(shop.command(&[&["export"], &model[..], &["--to", kind, "--out", "exported"]].concat()), 2);
        assert!(err.contains("out: is a bottleneck adapter") && err.contains("llama.cpp"), "{kind}: {err}");
        assert!(!shop.path("exported").exists());
    }
}

#[test]
fn a_template_with_the_date_goes_on_tomorrow() {
    let shop = Workshop::new();
    let template = "{% for m in messages %}{{ 'w' ~ strftime_now('%d') | int }} {{ m['content'] }} {% endfor %}";
    let config = json!({ "chat_template": template });
    fs::write(shop.path("model/tokenizer_config.json"), config.to_string()).unwrap();
    let turn = |role: &str, text: &str| json!({ "role": role, "content": text });
    let record =
        |at: usize| json!({ "messages": [turn("user", "w5"), turn("assistant", &format!("w{} w{}", 40 + at, 41 + at))] });
    shop.write_records("train.jsonl", &(0..12).map(record).collect::<Vec<_>>());
    // 14 November 2023, and the day after.
    let (today, tomorrow) = ("1700000000", "1700086400");
    let on = |day: &str, out: &str, steps: &str, more: &[&str]| {
        let options = [&["--max-steps", steps, "--save-steps", "2", "--lr-schedule", "constant"], more].concat();
        let mut command = shop.train(out, &options);
        command.env("SOURCE_DATE_EPOCH", day);
        run(command, 0)
    };
    on(today, "whole", "4", &[]);
    on(today, "out", "2", &[]);
    on(tomorrow, "out", "4", &["--resume"]);
    assert_eq!(shop.result("out"), shop.result("whole"));
    on(tomorrow, "other", "4", &[]);
    assert_ne!(shop.result("other"), shop.result("whole"), "the date matters");
}

#[test]
fn notes_between_the_metrics_stay() {
    let shop = Workshop::new();
    let options = |steps: &'static str| ["--lr-schedule", "constant", "--save-steps", "2", "--max-steps", steps];
    run(shop.train("out", &options("4")), 0);
    let path = shop.path("out/metrics.jsonl");
    let lines: Vec<String> = fs::read_to_string(&path).unwrap().lines().map(str::to_string).collect();
    let noted = format!("# began on a Monday\n{}\n\n{}\n// slow\n{}\n{}\n", lines[0], lines[1], lines[2], lines[3]);
    fs::write(&path, &noted).unwrap();
    run(shop.train("out", &[&options("6")[..], &["--resume"]].concat()), 0);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with(&noted), "{text}");
    let steps: Vec<Value> = text[noted.len()..].lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(steps.iter().map(|step| step["step"].clone()).collect::<Vec<_>>(), [5, 6]);
    let curve = fs::read_to_string(shop.path("out/loss.svg")).unwrap();
    run(shop.train("whole", &options("6")), 0);
    assert_eq!(curve, fs::read_to_string(shop.path("whole/loss.svg")).unwrap(), "the curve begins at the first step");
}
