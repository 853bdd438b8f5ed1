//! AdapterHub's bottleneck adapters, both ways.

use std::{fs, path::Path};

use graftling::adapter::{AdapterLayout, Placement};
use graftling::architecture::Architecture;
use graftling::formats::adapter_file::AdapterFile;
use graftling::formats::adapter_hub::{BottleneckConfig, Input, ReductionFactor, load, save};
use graftling::formats::peft::AdapterTensor;
use serde_json::{Value, json};

use super::{message, tiny};

fn model() -> Architecture {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference/tiny/grouped_tied/config.json");
    Architecture::from_json_str(&fs::read_to_string(fixture).unwrap()).unwrap()
}

/// Some values for every matrix of an adapter.
fn tensors(config: &BottleneckConfig) -> Vec<AdapterTensor> {
    let placement = Placement::from_adapter_hub("adapter", config, &model()).unwrap();
    let values = |(number, matrix): (usize, graftling::adapter::AdapterMatrix)| AdapterTensor {
        values: tiny::values(number as u64, matrix.elements()),
        name: matrix.name,
        shape: matrix.shape,
    };
    let mut all: Vec<_> = AdapterLayout::new(&placement).tensors.into_iter().enumerate().map(values).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn saved(config: &BottleneckConfig) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), config, &tensors(config)).unwrap();
    folder
}

fn change(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("adapter_config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn an_adapter_survives_saving_and_loading() {
    let layers = [(0, 4.0), (2, 2.5)].into_iter().collect();
    let own_layers = ReductionFactor { default: Some(8.0), layers };
    let more = BottleneckConfig {
        reduction_factor: own_layers,
        non_linearity: "gelu_new".parse().unwrap(),
        scaling: 0.25,
        dropout: 0.125,
        leave_out: [1].into(),
        base_model: Some("owner/model".to_owned()),
        model_class: Some("LlamaForCausalLM".to_owned()),
        model_type: Some("llama".to_owned()),
        hidden_size: Some(32),
        ..BottleneckConfig::pfeiffer()
    };
    for config in [BottleneckConfig::houlsby(), BottleneckConfig::pfeiffer(), BottleneckConfig::parallel(), more] {
        let folder = saved(&config);
        assert_eq!(load(folder.path()).unwrap(), (config.clone(), tensors(&config)));
        let (file, _) = AdapterFile::load(folder.path()).unwrap();
        assert_eq!(file, AdapterFile::AdapterHub(config));
        assert!(AdapterFile::is_in(folder.path()));
    }
}

/// A bottleneck is as wide as the library makes it: rounded down, and at least 1.
#[test]
fn widths_are_the_librarys() {
    for (factor, size) in [(16.0, 2), (32.0, 1), (64.0, 1), (2.9, 11), (0.5, 64), (32.0 / 10.5, 10)] {
        assert_eq!(ReductionFactor::uniform(factor).size(3, 32), Some(size), "{factor}");
    }
    let some = ReductionFactor { default: None, layers: [(1, 4.0)].into() };
    assert_eq!((some.size(1, 32), some.size(0, 32)), (Some(8), None));
}

/// The library's switches are several ways to say what goes in.
#[test]
fn what_goes_in_follows_from_the_switches() {
    let folder = saved(&BottleneckConfig::houlsby());
    let read = |parallel: bool, before: bool, after: bool, residual: Value| {
        change(folder.path(), |config| {
            config["config"]["is_parallel"] = json!(parallel);
            config["config"]["original_ln_before"] = json!(before);
            config["config"]["original_ln_after"] = json!(after);
            config["config"]["residual_before_ln"] = residual;
        });
        load(folder.path()).map(|(config, _)| config.input)
    };
    assert_eq!(read(false, false, true, json!(true)).unwrap(), Input::Output);
    assert_eq!(read(false, false, true, json!(false)).unwrap(), Input::Output);
    assert_eq!(read(false, true, true, json!(true)).unwrap(), Input::Sum);
    assert_eq!(read(false, true, false, json!(false)).unwrap(), Input::Sum);
    assert_eq!(read(true, false, true, json!(true)).unwrap(), Input::Residual);
    for (parallel, before, after, residual, key) in [
        (false, true, true, json!(false), "residual_before_ln"),
        (false, true, true, json!("post_add"), "residual_before_ln"),
        (false, true, false, json!(true), "original_ln_after"),
        (false, false, false, json!(true), "original_ln_after"),
        (true, false, false, json!(true), "original_ln_after"),
    ] {
        let refused = message(read(parallel, before, after, residual));
        assert!(refused.contains(&format!("key `{key}`")), "{refused}");
    }
}

#[test]
fn options_that_would_change_the_numbers_are_refused_by_key() {
    for (key, value) in [
        ("scaling", json!("learned")),
        ("scaling", json!("channel")),
        ("ln_before", json!(true)),
        ("ln_after", json!(true)),
        ("use_gating", json!(true)),
        ("phm_layer", json!(true)),
        ("inv_adapter", json!("nice")),
        ("stochastic_depth", json!(0.1)),
        ("architecture", json!("lora")),
        ("non_linearity", json!("prelu")),
        ("non_linearity", json!(null)),
        ("reduction_factor", json!("16")),
        ("reduction_factor", json!(0)),
        ("reduction_factor", json!({"first": 4})),
        ("reduction_factor", json!(null)),
        ("leave_out", json!([-1])),
        ("dropout", json!(1)),
        ("mh_adapter", json!("yes")),
        ("something_new", json!(3)),
    ] {
        let folder = saved(&BottleneckConfig::houlsby());
        change(folder.path(), |config| config["config"][key] = value.clone());
        let refused = message(load(folder.path()));
        assert!(refused.contains(&format!("key `{key}`")), "{key} {value}: {refused}");
    }
    // What is off, or counts for other kinds alone, may stand there.
    let folder = saved(&BottleneckConfig::houlsby());
    for (key, value) in
        [("phm_dim", json!(4)), ("init_weights_seed", json!(7)), ("cross_adapter", json!(false)), ("new", json!(0))]
    {
        change(folder.path(), |config| config["config"][key] = value);
        load(folder.path()).unwrap();
    }
}

/// The library renamed two functions when it began to note its version.
#[test]
fn files_without_a_version_mean_older_functions() {
    for (name, meant) in [("gelu", "gelu_new"), ("gelu_orig", "gelu"), ("relu", "relu")] {
        let folder = saved(&BottleneckConfig::houlsby());
        change(folder.path(), |config| {
            config["config"]["non_linearity"] = json!(name);
            config.as_object_mut().unwrap().remove("version");
        });
        assert_eq!(load(folder.path()).unwrap().0.non_linearity.to_string(), meant);
    }
}

#[test]
fn tensors_that_do_not_belong_to_the_config_are_refused() {
    let folder = saved(&BottleneckConfig::houlsby());
    let refused = |edit: fn(&mut Value)| {
        let whole = fs::read(folder.path().join("adapter_config.json")).unwrap();
        change(folder.path(), edit);
        let refused = message(load(folder.path()));
        fs::write(folder.path().join("adapter_config.json"), whole).unwrap();
        refused
    };
    let wrong_place = refused(|config| config["config"]["mh_adapter"] = json!(false));
    assert!(wrong_place.contains("attention_adapters") && wrong_place.contains("no bottleneck at that place"), "{wrong_place}");
    assert!(refused(|config| config["config"]["leave_out"] = json!([2])).contains("layers.2."));
    assert!(refused(|config| config["config"]["reduction_factor"] = json!(4)).contains("must be [8]"));
    assert!(refused(|config| config["name"] = json!("another")).contains("no part of a bottleneck"));
    assert!(refused(|config| config["hidden_size"] = json!(64)).contains("must be [4]"));
    // And with the model: a layer without tensors, another width, a norm where the sum would be.
    let on = |config: &BottleneckConfig, model: &Architecture| message(Placement::from_adapter_hub("adapter", config, model));
    let narrow = BottleneckConfig { hidden_size: Some(64), ..BottleneckConfig::houlsby() };
    assert!(on(&narrow, &model()).contains("hidden size of 64"));
    let gemma = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference/families/gemma2/config.json");
    let gemma = Architecture::from_json_str(&fs::read_to_string(gemma).unwrap()).unwrap();
    assert!(on(&BottleneckConfig::pfeiffer(), &gemma).contains("original_ln_before"));
    let none = BottleneckConfig { reduction_factor: ReductionFactor { default: None, layers: [(0, 4.0)].into() }, ..narrow };
    assert!(on(&BottleneckConfig { hidden_size: None, ..none }, &model()).contains("layer 1"));
    let fewer = saved(&BottleneckConfig { leave_out: [1].into(), ..BottleneckConfig::houlsby() });
    change(fewer.path(), |config| config["config"]["leave_out"] = json!([]));
    let missing = message(graftling::adapter::LoadedAdapter::load(fewer.path(), &model()));
    assert!(missing.contains("layers.1.self_attn.o_proj.adapter_down") && missing.contains("missing"), "{missing}");
}
