//! `graftling bench` from the outside, on a tiny model: what it reports is there and possible. How fast anything is, no test says.

mod runs;

use runs::{Workshop, run};
use serde_json::Value;

fn bench(shop: &Workshop, more: &[&str]) -> String {
    let mut arguments = vec!["bench", "--quick"];
    arguments.extend(more);
    run(shop.command(&arguments), 0).0
}

fn positive(value: &Value) -> f64 {
    let number = value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
    assert!(number > 0.0 && number.is_finite(), "{number}");
    number
}

#[test]
fn steps_and_generation_are_reported_as_json() {
    let shop = Workshop::new();
    let more = [
        "--model",
        "model",
        "--only",
        "step,generation",
        "--steps",
        "2",
        "--max-length",
        "16",
        "--json",
        "--trace",
        "trace.json",
    ];
    let report: Value = serde_json::from_str(&bench(&shop, &more)).unwrap();
    positive(&report["flops_per_second"]);
    positive(&report["bytes_per_second"]);
    assert!(report["flops_per_second_by_chains"].as_array().unwrap().contains(&report["flops_per_second"]));
    let step = &report["step"];
    assert_eq!((step["tokens"].as_u64(), step["step_seconds"].as_array().map(Vec::len)), (Some(64), Some(2)));
    let seconds = positive(&step["median_step_seconds"]);
    assert!((positive(&step["tokens_per_second"]) - 64.0 / seconds).abs() < 1e-6);
    // By definition: the time of the matmuls at the best rate, over the time of the step.
    let expected = positive(&step["matmul_flops"]) / positive(&step["matmul_flops_per_second"]) / seconds;
    assert!((positive(&step["step_efficiency"]) / expected - 1.0).abs() < 1e-6);
    assert!(positive(&step["encode_seconds"]) < seconds && positive(&step["submit_seconds"]) < seconds);
    for class in ["weights", "adapters", "optimizer", "activations"] {
        positive(&step["gpu_bytes"][class]);
    }
    positive(&report["generation"]["tokens_per_second"]);
    let kernels = report["step_kernels"].as_array().unwrap();
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(shop.path("trace.json")).unwrap()).unwrap();
    let calls: u64 = kernels.iter().map(|kernel| kernel["calls"].as_u64().unwrap()).sum();
    assert_eq!(trace["traceEvents"].as_array().unwrap().len() as u64, calls);
    if !kernels.is_empty() {
        assert_eq!(Some(calls), step["dispatches"].as_u64());
    }
}

#[test]
fn kernels_are_measured_at_the_shapes_of_models() {
    let shop = Workshop::new();
    let report: Value = serde_json::from_str(&bench(
        &shop,
        &["--model", "model", "--only", "kernels", "--batch-size", "1", "--max-length", "32", "--json"],
    ))
    .unwrap();
    let tables = report["tables"].as_array().unwrap();
    assert_eq!(tables.len(), 2, "a known model and this one");
    for table in tables {
        let lines = table["lines"].as_array().unwrap();
        for part in
            ["q_proj", "LoRA", "attention", "rms_norm", "rope", "glu", "logits", "linear_cross_entropy", "adamw", "global_norm"]
        {
            assert!(lines.iter().any(|line| line["name"].as_str().unwrap().contains(part)), "{part}");
        }
        for line in lines {
            let measured = &line["measured"];
            assert!(!measured.is_null() || !line["note"].is_null(), "{line}");
            if !measured.is_null() {
                let seconds = positive(&measured["seconds"]);
                assert!((positive(&measured["bytes_per_second"]) * seconds / positive(&line["bytes"]) - 1.0).abs() < 1e-6);
                positive(&measured["share"]);
            }
        }
    }
    let text = bench(&shop, &["--only", "device"]);
    assert!(text.contains("peak") && text.contains("bandwidth") && !text.contains("matmul"), "{text}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let shop = Workshop::new();
    for (more, named) in [
        (vec!["--only", "step"], "--model"),
        (vec!["--model", "model", "--layers", "7"], "layer 7"),
        (vec!["--steps", "0"], "--steps"),
        (vec!["--model", "nowhere"], "nowhere"),
    ] {
        let mut arguments = vec!["bench"];
        arguments.extend(more);
        let (out, err) = run(shop.command(&arguments), 2);
        assert!(out.is_empty() && err.contains(named), "{err}");
    }
}

#[test]
fn formats_are_compared_by_the_same_steps() {
    let shop = Workshop::new();
    let more = ["--model", "model", "--formats", "bf16,q8_0,f32", "--steps", "2", "--max-length", "16", "--json"];
    let report: Value = serde_json::from_str(&bench(&shop, &more)).unwrap();
    let formats = report["formats"].as_array().unwrap();
    let names: Vec<&str> = formats.iter().map(|one| one["format"].as_str().unwrap()).collect();
    assert_eq!(names, ["bf16", "q8_0", "f32"]);
    assert_eq!(formats[0]["of_first"].as_f64(), Some(1.0));
    let bytes: Vec<f64> = formats.iter().map(|one| positive(&one["weight_bytes"])).collect();
    assert!(bytes[1] < bytes[0] && bytes[0] < bytes[2], "{bytes:?}");
    for one in formats {
        let seconds: Vec<f64> = one["step_seconds"].as_array().unwrap().iter().map(positive).collect();
        // Of two the upper one.
        assert_eq!((seconds.len(), positive(&one["median_step_seconds"])), (2, seconds[0].max(seconds[1])));
        let first: Vec<f64> = formats[0]["step_seconds"].as_array().unwrap().iter().map(positive).collect();
        let expected = (seconds[0] / first[0]).max(seconds[1] / first[1]);
        assert!((positive(&one["of_first"]) / expected - 1.0).abs() < 1e-9);
    }
}
