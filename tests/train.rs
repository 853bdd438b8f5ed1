//! Training, evaluation and generation from the outside: the real program on a tiny model.

#[path = "train/eva.rs"]
mod eva;
#[path = "train/experts.rs"]
mod experts;
mod runs;
#[path = "train/tokens.rs"]
mod tokens;

use graftling::formats::peft::load_adapter;
use runs::{Workshop, fixture, program, run};
use serde_json::{Value, json};

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_run_learns_and_leaves_adapter_metrics_curve_and_checkpoints() {
    let shop = Workshop::new();
    let more = ["--max-steps", "12", "--save-steps", "5", "--eval-data", "held-out.jsonl", "--eval-steps", "6"];
    let (out, err) = run(shop.train("out", &more), 0);
    assert_eq!(out, "", "train says what it says on standard error");
    assert!(err.contains("12 steps") && err.contains("graftling generate"), "{err}");
    let files =
        ["adapter_config.json", "adapter_model.safetensors", "checkpoint-10", "checkpoint-12", "loss.svg", "metrics.jsonl"];
    assert_eq!(shop.names("out").into_iter().filter(|name| !name.starts_with('.')).collect::<Vec<_>>(), files);
    let (config, tensors) = load_adapter(&shop.path("out")).unwrap();
    assert_eq!((config.r, config.lora_alpha, config.target_modules.len(), tensors.len()), (4, 32.0, 7, 3 * 7 * 2));

    let metrics = shop.metrics("out");
    let keys = "step loss learning_rate grad_norm tokens supervised_tokens tokens_per_second gpu_bytes";
    for (at, step) in metrics.iter().enumerate() {
        let found: Vec<&str> = step.as_object().unwrap().keys().map(String::as_str).filter(|&key| key != "eval_loss").collect();
        assert_eq!(found.join(" "), keys);
        assert_eq!(step["step"], at as u64 + 1);
        assert_eq!(step["eval_loss"].is_number(), [6, 12].contains(&(at + 1)));
    }
    assert!(number(&metrics[11]["eval_loss"]) < number(&metrics[5]["eval_loss"]), "{metrics:#?}");
    assert!(number(&metrics[11]["loss"]) < number(&metrics[0]["loss"]) - 1.0, "{metrics:#?}");
}

/// What an adapter's own files do not say, the folder in which it was trained remembers.
#[test]
fn inspect_shows_how_an_adapter_was_trained() {
    let shop = Workshop::new();
    run(shop.train("out", &["--max-steps", "1", "--loraplus-lr-ratio", "8", "--init-lora-weights", "pissa"]), 0);
    let inspect = |more: &[&str]| {
        let mut command = program();
        command.arg("inspect").arg(shop.path("out")).args(more);
        run(command, 0).0
    };
    let facts: Value = serde_json::from_str(&inspect(&["--json"])).unwrap();
    let options = &facts["run"]["options"];
    assert_eq!((&options["loraplus_lr_ratio"], &options["init_lora_weights"]), (&json!("8"), &json!("pissa")), "{facts}");
    // Rank 4 is 8 in the file: what was learned, and what was taken out of the base.
    assert_eq!((&facts["config"]["r"], &facts["modules"][0]["ranks"]), (&json!(8), &json!([8])), "{facts}");
    let text = inspect(&[]);
    assert!(text.contains("loraplus_lr_ratio 8") && text.contains("init_lora_weights pissa"), "{text}");
}

/// Each expert has an A and a B of its own, so has the one for every token, and a layer may have none.
#[test]
fn inspect_counts_what_a_run_trains_of_experts() {
    let shop = Workshop::new();
    // r (in + out) a matrix, of rank 2 on a hidden size of 32: q and o, k and v, then gate, up and down.
    let attention = |query: u64, key: u64| 2 * (2 * (32 + query) + 2 * (32 + key));
    let mlp = |inner: u64| 3 * 2 * (32 + inner);
    let (usual, wide) = (attention(32, 16), attention(64, 32));
    for (family, expected) in [
        ("mixtral", 2 * (usual + 6 * mlp(48))),
        ("qwen2_moe", 2 * (usual + 6 * mlp(16) + mlp(24))),
        ("qwen3_moe", 2 * (wide + 8 * mlp(16))),
        ("qwen3_moe_mixed", 3 * usual + 2 * 4 * mlp(16) + mlp(48)),
        // Gate and up have one A.
        ("gpt_oss", 3 * (wide + 6 * 2 * ((32 + 2 * 64) + (64 + 32)))),
    ] {
        shop.put_model("families", family);
        let (report, _) = run(shop.command_bare(&["inspect", family, "--lora-r", "2", "--json"]), 0);
        let adapter = serde_json::from_str::<Value>(&report).unwrap()["adapter"].clone();
        assert_eq!(
            (&adapter["trainable_parameters"], &adapter["bytes_f32"]),
            (&json!(expected), &json!(4 * expected)),
            "{family}"
        );
        let (dry, _) = run(shop.command(&["train", "--model", family, "--data", "train.jsonl", "--lora-r", "2", "--dry-run"]), 0);
        assert!(dry.contains(&format!(", {expected} parameters")), "{family}: {dry}");
        let (told, _) = run(shop.command_bare(&["inspect", family, "--lora-r", "2"]), 0);
        let shown = format!("would train {},{:03} parameters", expected / 1000, expected % 1000);
        assert!(told.contains(&shown), "{family}: {shown} in {told}");
    }
}

/// Ten steps of AdamW from a given adapter, with clipping and decay, against PyTorch in f64 (bounds of design section 9).
#[test]
fn ten_steps_are_those_of_pytorch() {
    let shop = Workshop::new();
    let expected: Value = serde_json::from_slice(&std::fs::read(fixture().join("expected.json")).unwrap()).unwrap();
    let adamw = &expected["adamw"];
    shop.write_records("records.jsonl", adamw["records"].as_array().unwrap());
    let start = fixture().join("adapter");
    let texts = ["learning_rate", "weight_decay", "max_grad_norm"].map(|key| adamw[key].to_string());
    let command = shop.command(&[
        "train",
        "--model",
        "model",
        "--data",
        "records.jsonl",
        "--out",
        "out",
        "--init-adapter",
        start.to_str().unwrap(),
        "--batch-size",
        "1",
        "--no-packing",
        "--no-shuffle",
        "--max-steps",
        "10",
        "--lr-schedule",
        "constant",
        "--learning-rate",
        &texts[0],
        "--weight-decay",
        &texts[1],
        "--max-grad-norm",
        &texts[2],
    ]);
    run(command, 0);
    for (key, figures, bound) in [("loss", "losses", 2e-4), ("grad_norm", "grad_norms", 2e-2)] {
        for (step, figure) in shop.metrics("out").iter().zip(adamw[figures].as_array().unwrap()) {
            let (found, figure) = (number(&step[key]), number(figure));
            assert!((found - figure).abs() <= bound, "step {}: {key} is {found}, PyTorch has {figure}", step["step"]);
        }
    }
    assert_eq!(shop.metrics("out").len(), 10);
}

/// Two batches of one record, accumulated, are one batch of two: the loss is averaged over the tokens of the whole step.
#[test]
fn accumulation_equals_the_large_batch() {
    let shop = Workshop::new();
    let common = ["--no-packing", "--no-shuffle", "--lora-dropout", "0", "--max-steps", "4"];
    let losses = |out: &str, batch: &str, accumulation: &str| -> Vec<f64> {
        let mut arguments = vec!["train", "--model", "model", "--data", "train.jsonl", "--out", out, "--lora-r", "4"];
        arguments.extend(["--learning-rate", "5e-3", "--batch-size", batch, "--gradient-accumulation-steps", accumulation]);
        arguments.extend(common);
        run(shop.command(&arguments), 0);
        shop.metrics(out).iter().map(|step| number(&step["loss"])).collect()
    };
    let (large, accumulated) = (losses("large", "4", "1"), losses("accumulated", "1", "4"));
    for (a, b) in large.iter().zip(&accumulated) {
        // Sums in another order: some units in the last place of a loss near 8, grown by four steps.
        assert!((a - b).abs() < 1e-4, "{large:?} {accumulated:?}");
    }
}

#[test]
fn a_folder_with_a_run_is_neither_overwritten_nor_continued_as_another_run() {
    let shop = Workshop::new();
    run(shop.train("out", &["--max-steps", "4"]), 0);
    let before = shop.result("out");
    let (_, err) = run(shop.train("out", &["--max-steps", "4"]), 2);
    assert!(err.contains("holds a run already") && err.contains("--resume"), "{err}");
    let (_, err) = run(shop.train("out", &["--max-steps", "4", "--resume", "--seed", "7", "--max-grad-norm", "0.5"]), 2);
    assert!(err.contains("seed was 0 and is 7") && err.contains("max_grad_norm was 1.0 and is 0.5"), "{err}");
    run(shop.train("out", &["--max-steps", "4", "--resume"]), 0);
    assert_eq!(shop.result("out"), before, "a run that is done is left as it is");
}

/// The second step is profiled, with dropout and two batches a step; no number of the run changes by a bit.
#[test]
fn a_profile_shows_the_kernels_and_changes_no_number() {
    let shop = Workshop::new();
    run(shop.train("plain", &["--max-steps", "4"]), 0);
    let (_, err) = run(shop.train("profiled", &["--max-steps", "4", "--profile", "trace.json"]), 0);
    assert_eq!(shop.result("profiled"), shop.result("plain"));
    if err.contains("no profile: this device has no timestamp") {
        return;
    }
    for part in ["step 2 by kernel", "GFLOP/s", "adamw", "attention", "accumulate", "trace.json"] {
        assert!(err.contains(part), "no {part} in {err}");
    }
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(shop.path("trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let of = |op: &str| events.iter().filter(|event| event["cat"] == op).count();
    assert_eq!((of("adamw"), of("accumulate"), of("linear_cross_entropy") % 2), (1, 2, 0), "one update of two batches");
    let (_, err) = run(shop.train("again", &["--max-steps", "4", "--profile", "trace.json"]), 2);
    assert!(err.contains("trace.json: is there already") && !shop.path("again").exists(), "{err}");
    assert!(events.iter().all(|event| event["ph"] == "X" && number(&event["dur"]) >= 0.0 && number(&event["ts"]) >= 0.0));

    // A trace that cannot be written costs a warning, not the run.
    let (_, err) = run(shop.train("unwritten", &["--max-steps", "2", "--profile", "nowhere/at/all.json"]), 0);
    assert!(err.contains("no trace: ") && err.contains("done: 2 steps"), "{err}");
}

#[test]
fn a_recipe_is_read_and_the_command_line_wins() {
    let shop = Workshop::new();
    let recipe = "model = \"model\"\ndata = \"train.jsonl\"\nout = \"from-recipe\"\nlora_r = 2\ntarget_modules = [\"q_proj\", \"v_proj\"]\n\
                  layers = \"1-2\"\nmax_steps = 2\nno_shuffle = true\n";
    std::fs::write(shop.path("recipe.toml"), recipe).unwrap();
    run(shop.command(&["train", "--config", "recipe.toml", "--lora-r", "3"]), 0);
    let (config, tensors) = load_adapter(&shop.path("from-recipe")).unwrap();
    assert_eq!((config.r, config.layers_to_transform, tensors.len()), (3, Some(vec![1, 2]), 8));
    std::fs::write(shop.path("recipe.toml"), "model = \"model\"\nlearning_rat = 1\n").unwrap();
    let (_, err) = run(shop.command(&["train", "--config", "recipe.toml"]), 2);
    assert_eq!(err, "error: recipe.toml:2: unknown key `learning_rat`\n  did you mean `learning_rate`?\n");
}

#[test]
fn a_dry_run_shows_the_records_and_writes_nothing() {
    let shop = Workshop::new();
    let (out, _) = run(shop.train("out", &["--dry-run"]), 0);
    assert!(out.contains("record 1") && out.contains("24 examples") && out.contains("GPU memory"), "{out}");
    assert!(!shop.path("out").exists());
}

#[test]
fn a_loss_that_is_not_finite_stops_with_step_and_lines_and_keeps_the_last_good_checkpoint() {
    let shop = Workshop::new();
    let mut arguments = vec!["train", "--model", "model", "--data", "train.jsonl", "--out", "out", "--max-grad-norm", "0"];
    arguments.extend(["--max-steps", "50", "--save-steps", "1", "--learning-rate", "1e36", "--lr-schedule", "constant"]);
    let (_, err) = run(shop.command(&arguments), 1);
    assert!(err.contains("error: step "), "{err}");
    assert!(err.contains("lines ") || err.contains("not saved"), "{err}");
    assert!(err.contains("--learning-rate"), "{err}");
    for name in shop.names("out").iter().filter(|name| name.starts_with("checkpoint-")) {
        load_adapter(&shop.path("out").join(name)).unwrap();
    }
    assert!(!shop.path("out/adapter_model.safetensors").exists(), "no final adapter from a failed run");
}

#[test]
fn wrong_input_ends_with_one_message_and_writes_nothing() {
    let shop = Workshop::new();
    std::fs::write(shop.path("broken.jsonl"), "{\"input_ids\":[3,4,5]}\n{\"input_ids\":[3,\n").unwrap();
    std::fs::write(shop.path("masked.jsonl"), "{\"input_ids\":[3,4],\"labels\":[-100,-100]}\n").unwrap();
    std::fs::write(shop.path("file"), "not a folder").unwrap();
    let train = |model: &str, data: &str, out: &str, more: &[&str]| {
        let mut arguments = vec!["train", "--model", model, "--data", data, "--out", out];
        arguments.extend(more);
        shop.command(&arguments)
    };
    let cases = [
        (train("nowhere/at-all/model", "train.jsonl", "out", &[]), "nowhere/at-all/model"),
        (train("model", "nowhere.jsonl", "out", &[]), "nowhere.jsonl"),
        (train("model", "broken.jsonl", "out", &[]), "broken.jsonl:2"),
        (train("model", "masked.jsonl", "out", &[]), "masked.jsonl"),
        (train("model", "train.jsonl", "out", &["--target-modules", "q_prj"]), "q_proj"),
        (train("model", "train.jsonl", "out", &["--layers", "2-3"]), "layer 3"),
        (train("model", "train.jsonl", "out", &["--init-adapter", "model"]), "adapter_config.json"),
        (train("model", "train.jsonl", "file/out", &[]), "file/out"),
    ];
    for (command, named) in cases {
        let (out, err) = run(command, 2);
        assert!(err.contains(named), "{named} is not in: {err}");
        assert_eq!((out.as_str(), err.matches("error:").count()), ("", 1), "{err}");
        assert!(!shop.path("out").exists());
    }
    let (_, err) = run(shop.command(&["train", "--model", "model", "--learning-rate", "fast"]), 2);
    assert!(err.contains("--learning-rate"), "{err}");
}

#[test]
fn eval_measures_what_training_measures() {
    let shop = Workshop::new();
    // All records in one step, no dropout: the loss before the first update is the model's own.
    let mut arguments =
        vec!["train", "--model", "model", "--data", "train.jsonl", "--eval-data", "held-out.jsonl", "--out", "out"];
    arguments.extend(["--batch-size", "24", "--max-length", "32", "--no-packing", "--max-steps", "1", "--learning-rate", "1e-2"]);
    run(shop.command(&arguments), 0);
    let step = &shop.metrics("out")[0];
    let eval = |more: &[&str]| -> Value {
        let mut arguments = vec!["eval", "--model", "model", "--json"];
        arguments.extend(more);
        let (out, _) = run(shop.command(&arguments), 0);
        serde_json::from_str(&out).unwrap()
    };
    let report = eval(&["--data", "train.jsonl", "--per-token"]);
    assert!((number(&report["loss"]) - number(&step["loss"])).abs() < 1e-5);
    assert!((number(&report["perplexity"]) / number(&report["loss"]).exp() - 1.0).abs() < 1e-12);
    assert_eq!(report["tokens"], step["supervised_tokens"]);
    let text = std::fs::read_to_string(shop.path("train.jsonl")).unwrap();
    for (example, line) in report["examples"].as_array().unwrap().iter().zip(text.lines()) {
        let record: Value = serde_json::from_str(line).unwrap();
        let nll = example["token_nll"].as_array().unwrap();
        let labels = &record["labels"].as_array().unwrap()[1..];
        assert_eq!(nll.len(), labels.len());
        assert!(nll.iter().zip(labels).all(|(nll, label)| nll.is_null() == (*label == json!(-100))));
        let known: Vec<f64> = nll.iter().filter_map(Value::as_f64).collect();
        assert_eq!(known.len() as u64, example["tokens"]);
        assert!((known.iter().sum::<f64>() / known.len() as f64 - number(&example["loss"])).abs() < 1e-9);
    }
    let adapted = eval(&["--data", "held-out.jsonl", "--adapter", "out"]);
    assert!((number(&adapted["loss"]) - number(&step["eval_loss"])).abs() < 1e-5);
    assert!(adapted["examples"][0].get("token_nll").is_none());
}

#[test]
fn generation_follows_the_seed_and_greedy_is_the_most_probable_token() {
    let shop = Workshop::new();
    let generate = |more: &[&str]| -> Value {
        let mut arguments = vec!["generate", "--model", "model", "--prompt", "w5 w9 w13", "--max-new-tokens", "12", "--json"];
        arguments.extend(more);
        let (out, _) = run(shop.command(&arguments), 0);
        serde_json::from_str(&out).unwrap()
    };
    let greedy = generate(&[]);
    assert_eq!(greedy["prompt_ids"].as_array().unwrap().iter().rev().take(3).rev().cloned().collect::<Vec<_>>(), [5, 9, 13]);
    assert_eq!(greedy, generate(&["--temperature", "0", "--seed", "9"]));
    assert_eq!(greedy["token_ids"], generate(&["--top-k", "1", "--temperature", "2"])["token_ids"]);
    let warm = ["--temperature", "3", "--seed", "1"];
    assert_eq!(generate(&warm), generate(&warm));
    assert_ne!(generate(&warm)["token_ids"], generate(&["--temperature", "3", "--seed", "2"])["token_ids"]);

    // Each greedy token, one read after the other, is the one that a whole evaluation finds most probable: its loss is the least.
    let ids: Vec<Value> =
        greedy["prompt_ids"].as_array().unwrap().iter().chain(greedy["token_ids"].as_array().unwrap()).cloned().collect();
    let other = |at: usize| -> Value {
        let mut ids = ids.clone();
        ids[at] = json!((ids[at].as_u64().unwrap() + 1) % 96);
        json!({ "input_ids": ids[..=at], "labels": (0..=at).map(|i| if i == at { ids[at].clone() } else { json!(-100) }).collect::<Vec<_>>() })
    };
    let first = greedy["prompt_ids"].as_array().unwrap().len();
    let mut records = vec![json!({ "input_ids": ids })];
    records.extend((first..ids.len()).map(other));
    shop.write_records("greedy.jsonl", &records);
    let (out, _) = run(shop.command(&["eval", "--model", "model", "--data", "greedy.jsonl", "--json", "--per-token"]), 0);
    let report: Value = serde_json::from_str(&out).unwrap();
    for (at, other) in (first..ids.len()).zip(&report["examples"].as_array().unwrap()[1..]) {
        let best = number(&report["examples"][0]["token_nll"][at - 1]);
        assert!(best <= number(&other["loss"]) + 1e-5, "token {at}: {best} against {other}");
    }

    let (text, _) = run(shop.command(&["generate", "--model", "model", "--prompt", "w5 w9 w13", "--max-new-tokens", "12"]), 0);
    assert_eq!(text.trim_end(), greedy["text"].as_str().unwrap().trim_end(), "streamed text is the whole text");
    let (_, err) = run(shop.command(&["generate", "--model", "model", "--chat", "w5"]), 2);
    assert!(err.contains("no chat template") && err.contains("--prompt"), "{err}");
}

#[test]
fn doctor_lists_the_gpus() {
    let mut doctor = program();
    doctor.arg("doctor");
    let (out, _) = run(doctor, 0);
    assert!(out.starts_with("0: ") && out.contains("largest binding") && out.contains("SmolLM2 135M"), "{out}");
}

/// The fewer bits a weight has, the less memory it takes and the further the loss of the first step is from f32's. A block's codes are off
/// by at most half a step, 1/254 of the largest weight in 8 bits and 1/30 of the range in 4; what that does to this loss was measured (5e-4, 1e-3, 4e-3) and bounded by some four times that.
#[test]
fn weights_may_rest_in_fewer_bits() {
    let shop = Workshop::new();
    let first_step = |weights: &str| {
        run(shop.train(weights, &["--weights", weights, "--max-steps", "2"]), 0);
        let step = shop.metrics(weights).remove(0);
        (number(&step["loss"]), number(&step["gpu_bytes"]))
    };
    let (exact, mut bytes) = first_step("f32");
    for (weights, bound) in [("bf16", 2e-3), ("q8_0", 5e-3), ("q4_1", 2e-2)] {
        let (loss, fewer) = first_step(weights);
        assert!((loss - exact).abs() < bound * exact, "{weights}: {loss} instead of {exact}");
        assert!(loss != exact && fewer < bytes, "{weights}: {fewer} bytes");
        bytes = fewer;
    }
}

/// A mark that no list of known marks holds ends a generation because the adapter's folder says so, and only then.
#[test]
fn a_learned_end_of_turn_stops_generation() {
    let shop = Workshop::new();
    let path = shop.path("model/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let added = json!({ "id": 95, "content": "w95", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                        "special": true });
    tokenizer["added_tokens"] = json!([added]);
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let template = "{% for m in messages %}{{ m.content }} w95 {% endfor %}";
    std::fs::write(shop.path("model/chat_template.jinja"), template).unwrap();
    let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
    shop.write_records("talk.jsonl", &[json!({ "messages": [turn("user", "w5 w6"), turn("assistant", "w7 w8 w9")] })]);
    let mut train = shop.command(&["train", "--model", "model", "--data", "talk.jsonl", "--out", "talk", "--lora-r", "8"]);
    train.args(["--max-steps", "60", "--learning-rate", "2e-2", "--save-steps", "60"]);
    let (_, err) = run(train, 0);
    assert!(err.contains("turns end with w95"), "{err}");
    let written: Value = serde_json::from_slice(&std::fs::read(shop.path("talk/end_of_turn.json")).unwrap()).unwrap();
    assert_eq!(written, json!({ "end_of_turn": [{ "id": 95, "token": "w95" }] }));

    // As plain text, so that the template says nothing of where a turn ends.
    let answer = |adapter: &str| -> Vec<u64> {
        let (out, _) = run(
            shop.command(&[
                "generate",
                "--model",
                "model",
                "--adapter",
                adapter,
                "--prompt",
                "w5 w6 w95",
                "--max-new-tokens",
                "9",
                "--json",
            ]),
            0,
        );
        let answer: Value = serde_json::from_str(&out).unwrap();
        answer["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
    };
    assert_eq!(answer("talk"), [7, 8, 9, 95]);
    assert_eq!(answer("talk/checkpoint-60"), [7, 8, 9, 95]);
    std::fs::remove_file(shop.path("talk/end_of_turn.json")).unwrap();
    let without = answer("talk");
    assert_eq!((&without[..4], without.len()), (&[7, 8, 9, 95][..], 9));
}

/// What training refuses, generation does: a mark of the template that becomes other tokens than its own.
#[test]
fn a_mark_that_is_cut_into_pieces_is_refused_before_it_is_read() {
    let shop = Workshop::new();
    let path = shop.path("model/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    tokenizer["model"]["vocab"]["<|stop|>"] = tokenizer["model"]["vocab"]["w95"].take();
    tokenizer["model"]["vocab"].as_object_mut().unwrap().remove("w95");
    tokenizer["pre_tokenizer"] =
        json!({ "type": "Split", "pattern": { "Regex": "stop|\\s+" }, "behavior": "Isolated", "invert": false });
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let template = "{% for m in messages %}{{ m.content }} <|stop|> {% endfor %}";
    std::fs::write(shop.path("model/chat_template.jinja"), template).unwrap();
    let (_, err) = run(shop.command(&["generate", "--model", "model", "--chat", "w5", "--max-new-tokens", "2"]), 2);
    assert!(err.contains("<|stop|>") && err.contains("token 95"), "{err}");
}
