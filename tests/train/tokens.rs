//! Trained rows of tokens, added tokens and whole matrices, from the command line to what is taken home.

use super::{number, run};
use crate::runs::Workshop;
use graftling::formats::ModelFiles;
use graftling::formats::peft::{AdapterTensor, load_adapter};
use serde_json::{Value, json};

const TOKENS: [&str; 2] = ["--train-tokens", "<|tool|>, <|note|>,w7"];

/// Records that use the tokens, and the options that most runs here have in common.
fn shop() -> Workshop {
    let shop = Workshop::new();
    let record = |number: usize| {
        let prompt = format!("w{} <|tool|> w{}", 10 + number, 30 + number % 4);
        json!({ "prompt": prompt, "completion": format!(" w7 <|note|> w{}", 50 + number % 5) })
    };
    shop.write_records("tokens.jsonl", &(0..12).map(record).collect::<Vec<_>>());
    shop
}

fn train(shop: &Workshop, out: &str, more: &[&str]) -> (String, String) {
    let mut arguments = vec!["train", "--model", "model", "--data", "tokens.jsonl", "--out", out, "--lora-r", "2"];
    arguments.extend(["--batch-size", "2", "--max-length", "24", "--lr-schedule", "constant", "--target-modules", "v_proj"]);
    if !more.contains(&"--learning-rate") {
        arguments.extend(["--learning-rate", "2e-2"]);
    }
    arguments.extend(more);
    run(shop.command(&arguments), 0)
}

fn eval(shop: &Workshop, more: &[&str]) -> f64 {
    let mut arguments = vec!["eval", "--data", "tokens.jsonl", "--json"];
    arguments.extend(more);
    let (out, _) = run(shop.command(&arguments), 0);
    number(&serde_json::from_str::<Value>(&out).unwrap()["loss"])
}

fn read_json(shop: &Workshop, path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(shop.path(path)).unwrap()).unwrap()
}

fn tensor(shop: &Workshop, adapter: &str, name: &str) -> AdapterTensor {
    let (_, tensors) = load_adapter(&shop.path(adapter)).unwrap();
    tensors.into_iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("{name} of {adapter}"))
}

/// `model.embed_tokens.weight` and `lm_head.weight` of a model folder, if it has both.
fn vocabulary(shop: &Workshop, model: &str) -> [Option<Vec<f32>>; 2] {
    let files = ModelFiles::open(shop.path(model).to_str().unwrap()).unwrap();
    ["model.embed_tokens.weight", "lm_head.weight"].map(|name| files.tensors.read_f32(name).ok())
}

/// llama.cpp stops at such a token whatever the data means by it, so it cannot be content in silence.
#[test]
fn a_token_that_ends_a_generation_by_its_name_is_told() {
    let shop = shop();
    let tokens = |list: &'static str| train(&shop, "told", &["--train-tokens", list, "--max-steps", "1", "--overwrite"]).1;
    assert!(!tokens("<|tool|>").contains("ends a generation"));
    let said = tokens("<|tool|>,<|call|>");
    assert!(said.contains("<|call|> ends a generation by its name") && said.contains("another name"), "{said}");
    let kinds: Vec<Value> = read_json(&shop, "told/tokenizer.json")["added_tokens"].as_array().unwrap().clone();
    assert_eq!(kinds.iter().map(|token| token["special"].clone()).collect::<Vec<_>>(), [json!(false), json!(true)]);
}

#[test]
fn added_tokens_are_trained_kept_and_read_with_the_adapter_alone() {
    let shop = shop();
    let (_, said) = train(&shop, "out", &[&TOKENS[..], &["--max-steps", "6", "--save-steps", "2"]].concat());
    assert!(said.contains("the rows of w7, <|tool|>, <|note|> (2 added to the 96 tokens of the model)"), "{said}");

    // The form of PEFT, and the tokenizer beside it.
    assert_eq!(read_json(&shop, "out/adapter_config.json")["trainable_token_indices"], json!([7, 96, 97]));
    let added = read_json(&shop, "out/tokenizer.json")["added_tokens"].clone();
    let expected = [(96, "<|tool|>"), (97, "<|note|>")].map(|(id, content)| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": false })
    });
    assert_eq!(added, json!(expected));
    let config = read_json(&shop, "out/tokenizer_config.json");
    assert_eq!(config["tokenizer_class"], "PreTrainedTokenizerFast");
    // transformers takes the key without a value for a mistake.
    assert!(config.get("added_tokens_decoder").is_none());
    let rows = tensor(&shop, "out", "embed_tokens.token_rows");
    assert_eq!(rows.shape, [3, 32]);

    // What evaluates and generates needs no more than the folder; a checkpoint has its tokenizer in the run's folder.
    let loss = eval(&shop, &["--model", "model", "--adapter", "out"]);
    assert_eq!(loss, eval(&shop, &["--model", "model", "--adapter", "out/checkpoint-6"]));
    let last = shop.metrics("out").len();
    assert_eq!(last, 6);
    let (out, _) = run(
        shop.command(&[
            "generate",
            "--model",
            "model",
            "--adapter",
            "out",
            "--prompt",
            "w3 <|tool|> w30",
            "--max-new-tokens",
            "3",
            "--json",
        ]),
        0,
    );
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["prompt_ids"], json!([3, 96, 30]));

    let (out, _) = run(shop.command_bare(&["inspect", "out", "--json"]), 0);
    let report: Value = serde_json::from_str(&out).unwrap();
    let tokens = &report["trainable_token_indices"]["embed_tokens"];
    assert_eq!(tokens[1], json!({ "id": 96, "token": "<|tool|>" }));
    let (out, _) = run(shop.command_bare(&["inspect", "out"]), 0);
    assert!(out.contains("rows of embed_tokens for 3 tokens: 7, <|tool|> (96), <|note|> (97)"), "{out}");

    // Merged, the model has the tokens itself, and not a bit of any other row has changed.
    run(shop.command_bare(&["merge", "--model", "model", "--adapter", "out", "--out", "merged"]), 0);
    assert!((eval(&shop, &["--model", "merged"]) - loss).abs() < 1e-5);
    assert_eq!(
        read_json(&shop, "merged/merge-report.json")["vocabulary"],
        json!({ "tokens": 98, "own_rows": { "model.embed_tokens.weight": 3 }, "unties": false })
    );
    let merged_config = read_json(&shop, "merged/config.json");
    assert_eq!((&merged_config["vocab_size"], &merged_config["tie_word_embeddings"]), (&json!(98), &json!(true)));
    let ([Some(before), None], [Some(after), None]) = (vocabulary(&shop, "model"), vocabulary(&shop, "merged")) else {
        panic!("both are tied")
    };
    assert_eq!((before.len(), after.len()), (96 * 32, 98 * 32));
    for (token, row) in after.chunks(32).enumerate() {
        let own = [7, 96, 97].iter().position(|own| *own == token);
        let expected = own.map_or_else(|| &before[token * 32..][..32], |own| &rows.values[own * 32..][..32]);
        assert!(row.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()), "row {token}");
        assert!(own.is_none_or(|_| token >= 96 || row != &before[token * 32..][..32]), "row {token} has not moved");
    }

    // No file of an adapter for llama.cpp or MLX holds rows.
    for target in ["gguf-adapter", "mlx-adapter"] {
        let (_, said) =
            run(shop.command_bare(&["export", "--model", "model", "--adapter", "out", "--to", target, "--out", "x"]), 2);
        assert!(said.contains("trainable_token_indices") && said.contains("Use --to"), "{said}");
    }

    // Trained further, with the rows and the tokens that it has.
    train(&shop, "further", &["--init-adapter", "out", "--max-steps", "1"]);
    assert_ne!(tensor(&shop, "further", "embed_tokens.token_rows").values, rows.values);
    assert_eq!(read_json(&shop, "further/tokenizer.json")["added_tokens"], added);
    let (_, said) = run(
        shop.command(&[
            "train",
            "--model",
            "model",
            "--data",
            "tokens.jsonl",
            "--out",
            "y",
            "--init-adapter",
            "out",
            "--train-tokens",
            "w9",
        ]),
        2,
    );
    assert!(said.contains("--train-tokens") && said.contains("rows of 3 tokens"), "{said}");
}

/// New rows begin with the mean of all rows, known ones with their own; the first loss is that of a model which has them so.
#[test]
fn rows_begin_with_the_mean_and_with_the_models_own() {
    let shop = shop();
    train(&shop, "out", &[&TOKENS[..], &["--max-steps", "1", "--learning-rate", "1e-30"]].concat());
    let rows = tensor(&shop, "out", "embed_tokens.token_rows").values;
    let [Some(before), _] = vocabulary(&shop, "model") else { panic!("the model has an embedding") };
    assert_eq!(rows[..32], before[7 * 32..][..32]);
    for column in 0..32 {
        let mean = before.iter().skip(column).step_by(32).map(|&value| f64::from(value)).sum::<f64>() / 96.0;
        for row in [1, 2] {
            assert!((f64::from(rows[row * 32 + column]) - mean).abs() < 1e-7);
        }
    }
}

/// Killed and gone on with, a run ends with the same bits; with another token it is another run.
#[test]
fn runs_with_rows_and_whole_matrices_go_on_bit_for_bit() {
    let shop = shop();
    let whole = ["--modules-to-save", "embed_tokens,lm_head", "--train-tokens", "<|tool|>,<|note|>"];
    let one = ["--modules-to-save", "lm_head"];
    for (name, options) in [("rows", &TOKENS[..]), ("whole", &whole[..]), ("output", &one[..])] {
        let [all, cut] = ["all", "cut"].map(|end| format!("{name}-{end}"));
        train(&shop, &all, &[options, &["--max-steps", "5"]].concat());
        train(&shop, &cut, &[options, &["--max-steps", "2"]].concat());
        train(&shop, &cut, &[options, &["--max-steps", "5", "--resume"]].concat());
        assert_eq!(shop.result(&all), shop.result(&cut), "{name}");
        let (steps, bytes) = shop.result(&all);
        assert!(steps.len() == 5 && !bytes.is_empty());
    }
    let mut arguments =
        vec!["train", "--model", "model", "--data", "tokens.jsonl", "--out", "rows-cut", "--lora-r", "2", "--resume"];
    arguments.extend(["--learning-rate", "2e-2", "--batch-size", "2", "--max-length", "24", "--lr-schedule", "constant"]);
    arguments.extend(["--target-modules", "v_proj", "--max-steps", "6", "--train-tokens", "<|tool|>,<|note|>,w8"]);
    let (_, said) = run(shop.command(&arguments), 2);
    assert!(said.contains("train_tokens was"), "{said}");
}

/// As in PEFT, matrices that are trained as a whole are two, also where the model has one for both.
#[test]
fn whole_matrices_are_kept_read_and_merged() {
    let shop = shop();
    let options = ["--modules-to-save", "embed_tokens,lm_head", "--train-tokens", "<|tool|>,<|note|>", "--max-steps", "4"];
    let (_, said) = train(&shop, "out", &options);
    assert!(said.contains("the whole of embed_tokens and lm_head"), "{said}");
    let config = read_json(&shop, "out/adapter_config.json");
    assert_eq!(config["modules_to_save"], json!(["embed_tokens", "lm_head"]));
    assert!(config["trainable_token_indices"].is_null());
    let [embedding, output] = ["embed_tokens.weight", "lm_head.weight"].map(|name| tensor(&shop, "out", name));
    assert_eq!((embedding.shape, output.shape), ([98, 32], [98, 32]));
    assert_ne!(embedding.values, output.values);

    let loss = eval(&shop, &["--model", "model", "--adapter", "out"]);
    run(shop.command_bare(&["merge", "--model", "model", "--adapter", "out", "--out", "merged"]), 0);
    assert_eq!(read_json(&shop, "merged/config.json")["tie_word_embeddings"], json!(false));
    assert_eq!(vocabulary(&shop, "merged"), [Some(embedding.values), Some(output.values)]);
    assert!((eval(&shop, &["--model", "merged"]) - loss).abs() < 1e-5);
}

#[test]
fn wrong_tokens_and_modules_are_refused_by_name() {
    let shop = shop();
    for (options, expected) in [
        (["--train-tokens", "<|tool|>,,w7"], "--train-tokens: there is a token without a character"),
        (["--modules-to-save", "q_proj"], "--modules-to-save: `q_proj` is no module that is trained as a whole"),
    ] {
        let mut arguments = vec!["train", "--model", "model", "--data", "tokens.jsonl", "--out", "out"];
        arguments.extend(options);
        let (_, said) = run(shop.command(&arguments), 2);
        assert!(said.contains(expected), "{said}");
    }
    // A tokenizer that belongs to another model.
    train(&shop, "out", &[&TOKENS[..], &["--max-steps", "1"]].concat());
    let path = shop.path("out/tokenizer.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"id\": 96", "\"id\": 196");
    std::fs::write(&path, text).unwrap();
    let (_, said) = run(shop.command(&["eval", "--model", "model", "--adapter", "out", "--data", "tokens.jsonl"]), 2);
    assert!(said.contains("gives <|note|> the id 97, and behind the model's own tokens it would have 96"), "{said}");
}
