//! The start that looks at the data first.

use super::{Value, Workshop, json, load_adapter, number, run};

const EVA: [&str; 2] = ["--init-lora-weights", "eva"];

/// Training begins at the base model, whatever its weights rest in and whatever is trained of it, and learns; what is saved is an
/// ordinary LoRA with the directions of unit length that A began with.
#[test]
fn a_run_begins_at_the_base_model_and_leaves_an_ordinary_lora() {
    let shop = Workshop::new();
    let cases: [&[&str]; 5] = [
        &[],
        &["--use-dora", "--use-rslora", "--rank-pattern", "k_proj=2,down_proj=6"],
        &["--layers", "1-2", "--epochs", "4", "--no-packing"],
        &["--weights", "q8_0", "--loraplus-lr-ratio", "8"],
        &["--train-tokens", "<|new|>,w7", "--modules-to-save", "norm"],
    ];
    for (number_of, options) in cases.into_iter().enumerate() {
        let [usual, eva] = [&[][..], &EVA].map(|start| {
            let out = format!("out-{number_of}-{}", start.len());
            let steps = ["--max-steps", "8"];
            let (_, err) = run(shop.train(&out, &[options, start, &steps].concat()), 0);
            assert_eq!(err.contains("inputs have settled after"), !start.is_empty(), "{err}");
            (shop.metrics(&out), load_adapter(&shop.path(&out)).unwrap())
        });
        let of = |step: &Value, key: &str| number(&step[key]);
        // DoRA divides by lengths that are rounded.
        let bound = if options.contains(&"--use-dora") { 1e-4 } else { 0.0 };
        assert!((of(&eva.0[0], "loss") - of(&usual.0[0], "loss")).abs() <= bound, "{options:?}");
        assert_ne!(of(&eva.0[0], "grad_norm"), of(&usual.0[0], "grad_norm"), "{options:?}");
        assert!(of(&eva.0[7], "loss") < of(&eva.0[0], "loss"), "{options:?}");
        let shapes = |tensors: &[graftling::formats::peft::AdapterTensor]| {
            tensors.iter().map(|tensor| (tensor.name.clone(), tensor.shape)).collect::<Vec<_>>()
        };
        assert_eq!(shapes(&eva.1.1), shapes(&usual.1.1), "{options:?}");
    }
    let config: Value = serde_json::from_slice(&std::fs::read(shop.path("out-0-2/adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["init_lora_weights"], json!(true));

    // Without a step to speak of, A is what it began with: orthonormal rows, the same for layers that the same enters.
    let mut begun = shop.command(&["train", "--model", "model", "--data", "train.jsonl", "--out", "begun", "--lora-r", "4"]);
    begun.args(EVA).args(["--max-length", "32", "--max-steps", "1", "--learning-rate", "1e-30"]);
    run(begun, 0);
    let (_, tensors) = load_adapter(&shop.path("begun")).unwrap();
    let a = |module: &str| {
        let name = format!("layers.1.self_attn.{module}.lora_a");
        &tensors.iter().find(|tensor| tensor.name == name).unwrap().values
    };
    assert_eq!((a("q_proj"), a("q_proj")), (a("k_proj"), a("v_proj")));
    assert_ne!(a("q_proj"), a("o_proj"));
    for tensor in tensors.iter().filter(|tensor| tensor.name.ends_with(".lora_a")) {
        let rows: Vec<&[f32]> = tensor.values.chunks(tensor.shape[1]).collect();
        for (i, row) in rows.iter().enumerate() {
            for (j, other) in rows.iter().enumerate() {
                let product: f32 = row.iter().zip(*other).map(|(a, b)| a * b).sum();
                assert!((product - if i == j { 1.0 } else { 0.0 }).abs() < 1e-4, "{} {i} {j}: {product}", tensor.name);
            }
        }
    }
}

/// What the options, or the data, cannot give is refused with both numbers; most of it before there is a device, for which a look at the
/// plan needs none.
#[test]
fn what_cannot_be_is_refused_with_numbers() {
    let shop = Workshop::new();
    run(shop.train("out", &[&EVA[..], &["--device", "none such", "--dry-run"]].concat()), 0);
    let refused = |data: &str, r: &str, more: &[&str]| {
        let mut train = shop.command(&["train", "--model", "model", "--data", data, "--out", "out", "--lora-r", r]);
        train.args(EVA).args(more);
        run(train, 2).1
    };
    let said = refused("train.jsonl", "40", &["--dry-run"]);
    assert!(said.contains("what enters layers.0.self_attn.q_proj has 32 directions, fewer than rank 40"), "{said}");
    shop.write_records("short.jsonl", &[json!({ "input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, 7, 8, 9] })]);
    let said = refused("short.jsonl", "3", &["--dry-run"]);
    assert!(said.contains("takes 3 directions for layers.0.self_attn.q_proj") && said.contains("there are 3"), "{said}");
    // Tokens enough, and only two different ones.
    shop.write_records(
        "dull.jsonl",
        &[json!({ "input_ids": [5, 6, 5, 6, 5, 6, 5, 6, 5, 6], "labels": [5, 6, 5, 6, 5, 6, 5, 6, 5, 6] })],
    );
    let said = refused("dull.jsonl", "3", &[]);
    assert!(said.contains("what enters layers.0.self_attn.q_proj has 1 directions in 9 tokens, fewer than rank 3"), "{said}");
    assert!(said.contains("more varied data"), "{said}");

    shop.put_model("families", "mixtral");
    let mut experts = shop.command(&["train", "--model", "mixtral", "--data", "train.jsonl", "--out", "out", "--dry-run"]);
    experts.args(EVA);
    let (_, said) = run(experts, 2);
    assert!(said.contains("eva is made for one matrix, and layers.0."), "{said}");
    let bottleneck = shop.train_method("out", &["--adapter-method", "pfeiffer"], &EVA);
    assert!(run(bottleneck, 2).1.contains("--init-lora-weights: is for LoRA"));
}
