//! Routers of experts that are trained and balanced, from the command line to what is taken home.

use super::{number, run};
use crate::runs::Workshop;
use graftling::formats::ModelFiles;
use graftling::formats::peft::load_adapter;
use serde_json::{Value, json};
use std::path::Path;

/// A workshop whose model is one of the families with experts, and its config with these changes.
fn shop(family: &str, changes: &[(&str, Value)]) -> Workshop {
    let shop = Workshop::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference/families").join(family);
    std::fs::copy(folder.join("model.safetensors"), shop.path("model/model.safetensors")).unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    std::fs::write(shop.path("model/config.json"), config.to_string()).unwrap();
    shop
}

const BALANCED: [&str; 4] = ["--modules-to-save", "gate", "--router-aux-loss-coef", "0.1"];

fn eval(shop: &Workshop, more: &[&str]) -> f64 {
    let mut arguments = vec!["eval", "--data", "train.jsonl", "--json"];
    arguments.extend(more);
    let (out, _) = run(shop.command(&arguments), 0);
    number(&serde_json::from_str::<Value>(&out).unwrap()["loss"])
}

fn aux_losses(shop: &Workshop, out: &str) -> Vec<Option<f64>> {
    shop.metrics(out).iter().map(|step| step["aux_loss"].as_f64()).collect()
}

/// Stopped and gone on with, a run ends with the same bits; with another coefficient it is another run.
#[test]
fn runs_that_balance_routers_go_on_bit_for_bit() {
    let shop = shop("qwen2_moe", &[]);
    run(shop.train("cut", &[&BALANCED[..], &["--max-steps", "2", "--lr-schedule", "constant"]].concat()), 0);
    run(shop.train("whole", &[&BALANCED[..], &["--max-steps", "5", "--lr-schedule", "constant"]].concat()), 0);
    let on = [&BALANCED[..], &["--max-steps", "5", "--lr-schedule", "constant", "--resume"]].concat();
    let (_, said) = run(shop.train("cut", &on), 0);
    assert!(said.contains("0.1 times the load balancing loss of the routers"), "{said}");
    assert_eq!(shop.result("cut"), shop.result("whole"));
    assert_eq!(aux_losses(&shop, "cut"), aux_losses(&shop, "whole"));
    assert!(aux_losses(&shop, "cut").iter().all(|loss| loss.is_some_and(|loss| loss > 1.0)), "{:?}", aux_losses(&shop, "cut"));
    let other = ["--modules-to-save", "gate", "--router-aux-loss-coef", "0.2", "--max-steps", "6", "--lr-schedule", "constant"];
    let (_, said) = run(shop.train("cut", &[&other[..], &["--resume"]].concat()), 2);
    assert!(said.contains("router_aux_loss_coef was 0.1"), "{said}");
}

/// The coefficient is the config's where that says that the router's logits are an output, and the option's where there is one.
#[test]
fn the_coefficient_is_that_of_transformers() {
    let says = [("output_router_logits", json!(true)), ("router_aux_loss_coef", json!(0.05))];
    let cases: [(&[(&str, Value)], &[&str], Option<&str>); 6] = [
        (&says, &[], Some("0.05 times")),
        (&says[..1], &[], Some("0.001 times")),
        (&says, &["--router-aux-loss-coef", "0"], None),
        (&says, &["--router-aux-loss-coef", "0.2"], Some("0.2 times")),
        (&says[1..], &[], None),
        (&[], &["--router-aux-loss-coef", "0.2"], Some("0.2 times")),
    ];
    for (changes, options, expected) in cases {
        let shop = shop("mixtral", changes);
        let (out, err) = run(shop.train("out", &[options, &["--max-steps", "1"]].concat()), 0);
        let said = format!("{out}{err}");
        assert_eq!(said.contains("the load balancing loss"), expected.is_some(), "{changes:?} {options:?}: {said}");
        assert!(expected.is_none_or(|expected| said.contains(expected)), "{changes:?} {options:?}: {said}");
        assert_eq!(aux_losses(&shop, "out")[0].is_some(), expected.is_some());
    }
}

/// Balanced for long enough, the routers send their tokens more evenly.
#[test]
fn balanced_routers_spread_their_tokens() {
    let shop = shop("qwen3_moe", &[]);
    let often = ["--max-steps", "30", "--modules-to-save", "mlp.gate"];
    for (out, coefficient) in [("plain", "1e-9"), ("balanced", "3")] {
        run(shop.train(out, &[&often[..], &["--router-aux-loss-coef", coefficient]].concat()), 0);
    }
    let last = |out: &str| aux_losses(&shop, out).last().copied().flatten().unwrap();
    // 2 is the least that 2 of 8 can have.
    assert!(last("balanced") < 0.8 * last("plain") && last("balanced") > 1.9, "{} {}", last("balanced"), last("plain"));
}

#[test]
fn routers_are_kept_read_and_merged() {
    let shop = shop("mixtral", &[]);
    let options = ["--modules-to-save", "mlp.gate", "--max-steps", "3", "--target-modules", "v_proj"];
    let (_, said) = run(shop.train("out", &options), 0);
    assert!(said.contains("the whole of gate"), "{said}");
    let (config, tensors) = load_adapter(&shop.path("out")).unwrap();
    assert_eq!(config.modules_to_save, ["gate"]);
    let name = "layers.1.block_sparse_moe.gate.weight";
    let router = tensors.iter().find(|tensor| tensor.name == name).unwrap();
    assert_eq!(router.shape, [6, 32]);
    let weights = |model: &str| {
        let files = ModelFiles::open(shop.path(model).to_str().unwrap()).unwrap();
        files.tensors.read_f32(&format!("model.{name}")).unwrap()
    };
    assert_ne!(weights("model"), router.values, "it has been trained");

    let loss = eval(&shop, &["--model", "model", "--adapter", "out"]);
    run(shop.command_bare(&["merge", "--model", "model", "--adapter", "out", "--out", "merged", "--type", "f32"]), 0);
    assert_eq!(weights("merged"), router.values);
    assert!((eval(&shop, &["--model", "merged"]) - loss).abs() < 1e-5);
    let (out, _) = run(shop.command_bare(&["inspect", "out"]), 0);
    assert!(out.lines().any(|line| line.split_whitespace().eq(["modules_to_save", "gate"])), "{out}");
    // Trained further, it begins where it ended.
    let mut further = vec!["train", "--model", "model", "--data", "train.jsonl", "--out", "further", "--init-adapter", "out"];
    further.extend(["--max-length", "32", "--max-steps", "1", "--learning-rate", "1e-30"]);
    run(shop.command(&further), 0);
    let (_, further) = load_adapter(&shop.path("further")).unwrap();
    assert_eq!(further.iter().find(|tensor| tensor.name == name).unwrap().values, router.values);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let dense = Workshop::new();
    for (options, expected) in [
        (["--router-aux-loss-coef", "0.1"], "--router-aux-loss-coef: model has no experts"),
        (["--router-aux-loss-coef", "NaN"], "--router-aux-loss-coef: NaN is out of range"),
        (["--modules-to-save", "gate"], "the model has no experts, and so no router"),
        (["--target-modules", "gate"], "--target-modules: `gate` is no module that can be adapted"),
    ] {
        let (_, said) = run(dense.train("out", &options), 2);
        assert!(said.contains(expected), "{said}");
    }
    let shop = shop("qwen3_moe_mixed", &[]);
    let cases: [(&[&str], &str); 3] = [
        (&["--target-modules", "gate", "--modules-to-save", "gate"], "is trained as a whole, and has an adapter besides"),
        (&["--modules-to-save", "layers.1.mlp.gate"], "routers are such as layers.0.mlp.gate"),
        (
            &["--router-aux-loss-coef", "0.1", "--layers", "2", "--prefix-cache", "memory"],
            "--prefix-cache: the load balancing loss",
        ),
    ];
    for (options, expected) in cases {
        let (_, said) = run(shop.train("out", options), 2);
        assert!(said.contains(expected), "{said}");
    }
    // Without an order nothing is cached of what is trained on.
    for (coefficient, caches) in [("0.1", false), ("0", true)] {
        let options = ["--router-aux-loss-coef", coefficient, "--layers", "2", "--epochs", "4", "--dry-run"];
        let (out, err) = run(shop.train("out", &options), 0);
        assert_eq!((out + &err).contains("prefix cache"), caches, "coefficient {coefficient}");
    }
}
