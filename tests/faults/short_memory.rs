//! Too little memory on the device: refused beforehand, with what the run needs by class and what would make it need less.

use graftling::Error;
use graftling::byte_size::ByteSize;
use graftling::gpu::{Device, Room};
use graftling::session::OpenModel;
use graftling::storage::DType;
use graftling::train::options::{Recipe, TrainOptions};
use graftling::train::prepare::Prepared;
use serde_json::json;

use super::runs::{Workshop, run};

/// Batches of at most 1024 x 32 tokens, which the data can fill: some hundred megabytes of activations.
fn large_batches(shop: &Workshop) -> Recipe {
    let ids: Vec<usize> = (0..32).map(|at| 3 + at % 90).collect();
    shop.write_records("large.jsonl", &vec![json!({ "input_ids": ids }); 1200]);
    Recipe {
        model: Some(shop.path("model").display().to_string()),
        data: Some(vec![shop.path("large.jsonl")]),
        out: Some(shop.path("out")),
        max_length: Some(32),
        batch_size: Some(1024),
        ..Recipe::default()
    }
}

fn needed(options: TrainOptions) -> usize {
    let model = OpenModel::open(&options.model).unwrap();
    Prepared::new(options, &model).unwrap().memory().total()
}

fn refusal(recipe: &Recipe, room: &Room) -> Result<(), String> {
    let options = recipe.clone().resolve().unwrap();
    let model = OpenModel::open(&options.model).unwrap();
    Prepared::new(options, &model).unwrap().check_room("GPU `test`", room).map_err(|error| {
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error:?}");
        assert_eq!(error.exit_code(), 1);
        error.to_string()
    })
}

#[test]
fn a_run_that_does_not_fit_is_refused_with_its_figures_and_what_would_help() {
    let shop = Workshop::new();
    let recipe = large_batches(&shop);
    let total = needed(recipe.clone().resolve().unwrap());
    let room = |free: usize| Room { free: Some((free as u64, "as the test says")), largest_binding: usize::MAX };
    assert_eq!(refusal(&recipe, &room(total)), Ok(()));
    assert_eq!(refusal(&recipe, &Room { free: None, ..room(0) }), Ok(()));
    let message = refusal(&recipe, &room(total - 1)).unwrap_err();
    let first =
        format!("GPU `test`: the run needs {}, but there are {} (as the test says)", ByteSize(total), ByteSize(total - 1));
    assert!(message.starts_with(&first), "{message}");
    for class in ["weights", "adapter", "gradients and moments", "activations", "inputs"] {
        assert!(message.contains(&format!("\n    {class} ")), "{class} is not in: {message}");
    }
    // The figures are those of a run with that option; half the batch is enough, so no smaller one is proposed.
    let figure = |options: TrainOptions| ByteSize(needed(options)).to_string();
    let half = figure(Recipe { batch_size: Some(512), ..recipe.clone() }.resolve().unwrap());
    let line = message.lines().find(|line| line.contains("--batch-size")).unwrap();
    assert!(line.contains("--batch-size 512 ") && line.ends_with(&format!("{half} in all, which fits")), "{half}: {message}");
    let all_layers = Recipe { recompute: Some("all".parse().unwrap()), ..recipe.clone() };
    let line = message.lines().find(|line| line.contains("--recompute all")).unwrap();
    assert!(line.contains(&figure(all_layers.resolve().unwrap())), "{message}");
    assert!(!message.contains("--weights"), "weights that are a thousandth of the run are no help: {message}");

    // With a hundredth of the memory the batch is halved more than once, and the last line of the list is what all of it gives.
    let message = refusal(&recipe, &room(total / 100)).unwrap_err();
    assert!(message.contains("--batch-size 4 ") || message.contains("--batch-size 8 "), "{message}");
    assert!(message.contains("all of these"), "{message}");

    // Someone who knows better says so.
    let budget = Some(ByteSize(total));
    assert_eq!(refusal(&Recipe { memory_budget: budget, ..recipe.clone() }, &room(1)), Ok(()));
}

#[test]
fn weights_that_do_not_fit_are_proposed_in_bf16() {
    let shop = Workshop::new();
    let recipe =
        Recipe { data: Some(vec![shop.path("train.jsonl")]), batch_size: Some(1), lora_r: Some(1), ..large_batches(&shop) };
    let total = needed(recipe.clone().resolve().unwrap());
    let bf16 = needed(Recipe { weights: Some(DType::BF16), ..recipe.clone() }.resolve().unwrap());
    let message = refusal(&recipe, &Room { free: Some((bf16 as u64, "as the test says")), largest_binding: usize::MAX });
    let message = message.unwrap_err();
    assert!(bf16 < total && message.lines().any(|line| line.contains("--weights bf16") && line.contains("fits")), "{message}");
}

#[test]
fn a_value_that_fits_no_binding_is_refused_by_name() {
    let shop = Workshop::new();
    let message = refusal(&large_batches(&shop), &Room { free: None, largest_binding: 1 << 20 }).unwrap_err();
    assert!(message.contains("in one piece, but the largest piece is 1 MiB") && message.contains("--batch-size"), "{message}");
}

/// A device that refuses an allocation tells the same figures; what is asked for here exceeds the largest buffer of any driver.
#[test]
fn an_allocation_that_fails_is_told_with_the_plan() {
    let device = Device::open(std::env::var("GRAFTLING_TEST_DEVICE").ok().as_deref()).unwrap();
    let error = device.allocate("too much", usize::MAX / 4).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error:?}");
    let shop = Workshop::new();
    let options = large_batches(&shop).resolve().unwrap();
    let model = OpenModel::open(&options.model).unwrap();
    let message = Prepared::new(options, &model).unwrap().explained(error).to_string();
    assert!(
        message.contains("for too much") && message.contains("what it needs:") && message.contains("--batch-size"),
        "{message}"
    );
}

/// A process whose address space is limited, on a driver that takes its memory from there; on a GPU there is nothing to limit.
#[test]
#[cfg(target_os = "linux")]
fn a_process_with_little_memory_is_refused_before_anything_is_written() {
    let device = Device::open(std::env::var("GRAFTLING_TEST_DEVICE").ok().as_deref()).unwrap();
    if !device.facts.cpu_driver {
        return crate::not_run::not_run("this GPU has memory of its own");
    }
    let shop = Workshop::new();
    // A row of two million tokens.
    let ids: Vec<usize> = (0..2_000_000).map(|at| 3 + at % 90).collect();
    shop.write_records("huge.jsonl", &[json!({ "input_ids": ids })]);
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(shop.path("model/config.json")).unwrap()).unwrap();
    config["max_position_embeddings"] = json!(2_000_000);
    std::fs::write(shop.path("model/config.json"), config.to_string()).unwrap();
    // 8 GiB are enough to start, on a machine with many cores as well.
    let limited = |arguments: &[&str]| {
        let plain = shop.command(arguments);
        let mut limited = std::process::Command::new("sh");
        limited.current_dir(shop.path("")).env_remove("GRAFTLING_LOG").stdin(std::process::Stdio::null());
        limited.args(["-c", "ulimit -v 8388608; exec \"$0\" \"$@\""]).arg(plain.get_program()).args(plain.get_args());
        run(limited, 1).1
    };
    let err = limited(&["train", "--model", "model", "--data", "huge.jsonl", "--out", "out", "--max-length", "2000000"]);
    assert!(err.contains("the run needs") && err.contains("what it needs:") && err.contains("--max-length"), "{err}");
    assert!(err.contains("ulimit -v") || err.contains("free memory") || err.contains("control group"), "{err}");
    let err = limited(&["eval", "--model", "model", "--data", "huge.jsonl"]);
    assert!(err.contains("what it needs:") && err.contains("activations") && err.contains("--max-length"), "{err}");
    config["max_position_embeddings"] = json!(50_000_000);
    std::fs::write(shop.path("model/config.json"), config.to_string()).unwrap();
    let err = limited(&["generate", "--model", "model", "--prompt", "w5 w6", "--max-new-tokens", "40000000"]);
    assert!(err.contains("what it needs:") && err.contains("keys and values") && err.contains("--max-new-tokens"), "{err}");
    assert!(!shop.path("out").exists());
}
