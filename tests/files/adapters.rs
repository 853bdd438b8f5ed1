//! PEFT adapters, both ways.

use std::{fs, path::Path};

use graftling::adapter::start::{Base, start};
use graftling::adapter::{LoadedAdapter, Placement};
use graftling::architecture::Architecture;
use graftling::formats::{
    ModelFiles,
    adapter_file::AdapterFile,
    atomic,
    peft::{AdapterConfig, AdapterTensor, load_adapter, save_adapter},
};
use graftling::model::weights::WeightType;
use serde_json::{Value, json};

use super::{message, tiny};

/// q and v of two layers with r 4.
fn adapter() -> (AdapterConfig, Vec<AdapterTensor>) {
    let config = AdapterConfig {
        r: 4,
        lora_alpha: 8.0,
        lora_dropout: 0.05,
        target_modules: vec!["q_proj".to_owned(), "v_proj".to_owned()],
        base_model: Some("owner/model".to_owned()),
        ..AdapterConfig::default()
    };
    let mut tensors = Vec::new();
    for layer in 0..2 {
        for (module, out) in [("q_proj", 64), ("v_proj", 32)] {
            for (matrix, shape) in [("lora_a", [4, 64]), ("lora_b", [out, 4])] {
                let name = format!("layers.{layer}.self_attn.{module}.{matrix}");
                tensors.push(AdapterTensor { name, shape, values: tiny::values(tensors.len() as u64, shape[0] * shape[1]) });
            }
        }
    }
    (config, tensors)
}

fn saved() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (config, tensors) = adapter();
    save_adapter(folder.path(), &config, &tensors).unwrap();
    folder
}

fn change_config(folder: &Path, key: &str, value: Value) {
    let path = folder.join("adapter_config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

fn change_tensors(folder: &Path, change: impl Fn(&mut Vec<(String, &'static str, Vec<usize>, Vec<u8>)>)) {
    let peft = |t: AdapterTensor| {
        let name = t.name.replace("lora_a", "lora_A").replace("lora_b", "lora_B");
        (format!("base_model.model.model.{name}.weight"), "F32", t.shape.to_vec(), tiny::f32_bytes(&t.values))
    };
    let mut all: Vec<_> = adapter().1.into_iter().map(peft).collect();
    change(&mut all);
    fs::write(folder.join("adapter_model.safetensors"), tiny::safetensors(&all)).unwrap();
}

#[test]
fn an_adapter_survives_saving_and_loading() {
    let folder = saved();
    assert_eq!(load_adapter(folder.path()).unwrap(), adapter());
    let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]);
    let config: Value = serde_json::from_str(&fs::read_to_string(folder.path().join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(
        (&config["peft_type"], &config["task_type"], &config["lora_alpha"]),
        (&json!("LORA"), &json!("CAUSAL_LM"), &json!(8))
    );
}

#[test]
fn keys_are_pefts() {
    let folder = saved();
    let bytes = fs::read(folder.path().join("adapter_model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let a = file.tensor("base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight").unwrap();
    let b = file.tensor("base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight").unwrap();
    assert_eq!((a.shape(), b.shape()), (&[4, 64][..], &[32, 4][..]));
}

#[test]
fn the_scale_is_pefts() {
    let plain = AdapterConfig { r: 16, lora_alpha: 32.0, ..AdapterConfig::default() };
    assert_eq!(plain.scale(), 2.0);
    assert_eq!(AdapterConfig { use_rslora: true, ..plain }.scale(), 8.0);
}

/// `target_modules` may be a pattern or paths; the tensors say which modules are meant.
#[test]
fn modules_are_those_of_the_tensors() {
    let folder = saved();
    for (targets, layers) in [
        (json!("all-linear"), Some(vec![0, 1])),
        (json!(r".*\.(q|v)_proj"), Some(vec![0, 1])),
        (json!(["self_attn.v_proj", "q_proj"]), None),
    ] {
        change_config(folder.path(), "target_modules", targets);
        let (config, _) = load_adapter(folder.path()).unwrap();
        assert_eq!(config.target_modules, ["q_proj", "v_proj"]);
        assert_eq!(config.layers_to_transform, layers);
    }
    // Tensors of a module that is not chosen would be none of the adapter's in PEFT.
    change_config(folder.path(), "target_modules", json!(["q_proj"]));
    assert!(message(load_adapter(folder.path())).contains("tensors of v_proj"));
    change_config(folder.path(), "target_modules", json!(["q_proj", "v_proj"]));
    for (excluded, problem) in [(json!(["v_proj"]), "tensors of v_proj"), (json!(["q_proj", "v_proj"]), "exclude_modules")] {
        change_config(folder.path(), "exclude_modules", excluded);
        assert!(message(load_adapter(folder.path())).contains(problem));
    }
    change_config(folder.path(), "exclude_modules", json!(null));
    change_config(folder.path(), "layers_to_transform", json!([1, 0]));
    assert_eq!(load_adapter(folder.path()).unwrap().0.layers_to_transform, Some(vec![0, 1]));
    change_config(folder.path(), "layers_to_transform", json!(1));
    assert!(message(load_adapter(folder.path())).contains("layers_to_transform"));
}

/// Older files keep the adapter's name in the key, and half types are as good as f32.
#[test]
fn other_spellings_of_the_same_adapter() {
    let folder = saved();
    change_tensors(folder.path(), |all| {
        for (name, dtype, _, bytes) in all {
            *name = name.replace(".weight", ".default.weight");
            let values: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            (*dtype, *bytes) = ("BF16", tiny::bf16_bytes(&values));
        }
    });
    assert_eq!(load_adapter(folder.path()).unwrap().1, adapter().1);
}

#[test]
fn options_that_would_change_the_numbers_are_refused_by_key() {
    for (key, value) in [
        ("peft_type", json!("IA3")),
        ("use_dora", json!("yes")),
        ("bias", json!("some")),
        ("lora_bias", json!(1)),
        ("modules_to_save", json!(["score"])),
        ("modules_to_save", json!("lm_head")),
        ("trainable_token_indices", json!("3")),
        ("trainable_token_indices", json!([3, -1])),
        ("trainable_token_indices", json!({"q_proj": [3]})),
        ("rank_pattern", json!({"q_proj": 0})),
        ("rank_pattern", json!({"q_(": 4})),
        ("alpha_pattern", json!({"q_proj": "8"})),
        ("alpha_pattern", json!(["q_proj"])),
        ("use_rslora", json!("yes")),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("a start that PEFT gets next year")),
        ("an_option_that_peft_gets_next_year", json!(true)),
        ("an_option_that_peft_gets_next_year", json!({"of": "this kind"})),
        ("layer_replication", json!([[0, 1]])),
        ("r", json!(0)),
        ("r", json!(null)),
        ("lora_alpha", json!("16")),
        ("lora_dropout", json!(1.0)),
        ("target_modules", json!([])),
        ("layers_pattern", json!("h")),
    ] {
        let folder = saved();
        change_config(folder.path(), key, value);
        let text = message(load_adapter(folder.path()));
        assert!(text.contains("adapter_config.json") && text.contains(&format!("`{key}`")), "{key}: {text}");
    }
}

/// What says only how the adapter was made or run, or is off, changes no number.
#[test]
fn keys_that_change_no_number_are_passed_over() {
    for (key, value) in [
        ("init_lora_weights", json!("gaussian")),
        ("init_lora_weights", json!("orthogonal")),
        ("init_lora_weights", json!(false)),
        ("fan_in_fan_out", json!(true)),
        ("peft_version", json!("9.0")),
        ("exclude_modules", json!(["lm_head"])),
        ("exclude_modules", json!([])),
        ("corda_config", json!({"cache_file": "x"})),
        ("an_option_that_peft_gets_next_year", json!(false)),
        ("an_option_that_peft_gets_next_year", json!([])),
    ] {
        let folder = saved();
        change_config(folder.path(), key, value);
        assert_eq!(load_adapter(folder.path()).unwrap(), adapter(), "{key}");
    }
}

/// PEFT writes the list that it was given, also with modules of other families. A module that the model has must have its tensors.
#[test]
fn a_listed_module_without_tensors_is_passed_over_where_the_model_lacks_it_too() {
    let folder = saved();
    change_config(folder.path(), "target_modules", json!(["query_key_value", "q_proj", "v_proj"]));
    let (config, tensors) = load_adapter(folder.path()).unwrap();
    assert_eq!((&config.target_modules, &tensors), (&adapter().0.target_modules, &adapter().1));
    let placement = Placement::from_peft("adapter", &config, &tiny::config()).unwrap();
    assert!(placement.pieces.iter().all(|piece| ["q_proj", "v_proj"].contains(&piece.site.module)));
    assert_eq!(placement.pieces.len(), 2 * tiny::config().num_hidden_layers);
    change_config(folder.path(), "target_modules", json!(["o_proj", "q_proj", "v_proj"]));
    let (config, _) = load_adapter(folder.path()).unwrap();
    let text = message(Placement::from_peft("adapter", &config, &tiny::config()));
    assert!(text.contains("module o_proj") && text.contains("target_modules"), "{text}");
    // Unless it is excluded, by name or by a pattern.
    for excluded in [json!(["self_attn.o_proj"]), json!(".*o_proj")] {
        change_config(folder.path(), "exclude_modules", excluded);
        let (config, _) = load_adapter(folder.path()).unwrap();
        Placement::from_peft("adapter", &config, &tiny::config()).unwrap();
        assert_eq!(config.target_modules, ["q_proj", "v_proj"]);
    }
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    type Tensors = Vec<(String, &'static str, Vec<usize>, Vec<u8>)>;
    let cases: [(fn(&mut Tensors), &str, &str); 7] = [
        (|all| drop(all.remove(1)), "layers.0.self_attn.q_proj.lora_a", "lora_b is missing"),
        (|all| drop(all.remove(0)), "layers.0.self_attn.q_proj.lora_b", "lora_a is missing"),
        (|all| all[0].2 = vec![8, 32], "layers.0.self_attn.q_proj.lora_A", "r is 4"),
        (|all| all[0].2 = vec![256], "layers.0.self_attn.q_proj.lora_A", "[r, in]"),
        (|all| all[0].3[..4].copy_from_slice(&f32::NAN.to_le_bytes()), "q_proj.lora_A", "not finite"),
        (|all| all[0].0 = "base_model.model.lm_head.lora_A.weight".into(), "lm_head", "not the lora_A or lora_B"),
        (|all| all.truncate(6), "module v_proj", "layer 1"),
    ];
    for (change, name, needle) in cases {
        let folder = saved();
        change_tensors(folder.path(), change);
        let text = message(load_adapter(folder.path()));
        assert!(text.contains(name) && text.contains(needle), "{name} and {needle}: {text}");
    }
}

#[test]
fn what_is_no_adapter_gets_advice() {
    let folder = saved();
    fs::rename(folder.path().join("adapter_model.safetensors"), folder.path().join("adapter_model.bin")).unwrap();
    assert!(message(load_adapter(folder.path())).contains("torch.save"));
    fs::remove_file(folder.path().join("adapter_model.bin")).unwrap();
    assert!(message(load_adapter(folder.path())).contains("adapter_model.safetensors"));
    fs::remove_file(folder.path().join("adapter_config.json")).unwrap();
    assert!(message(load_adapter(folder.path())).contains("adapter_config.json"));
}

/// A folder that cannot be made, and a write that fails half-way: exit code 1, the old file untouched, nothing left over.
#[test]
fn failed_writes_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    atomic::write_atomically(&file, b"old").unwrap();
    let (config, tensors) = adapter();
    assert_eq!(save_adapter(&file.join("adapter"), &config, &tensors).unwrap_err().exit_code(), 1);
    let failing = atomic::write(&file, |out| {
        std::io::Write::write_all(out, b"half of the n")?;
        Err(std::io::Error::other("disk full"))
    });
    assert!(message(failing).contains("disk full"));
    assert_eq!(fs::read(&file).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(atomic::write_atomically(&folder.path().join("no/such/file"), b"").unwrap_err().exit_code(), 1);
}

/// For the text part of a model that has others, PEFT's names have the part in them, and a pattern keeps off the modules of the others.
#[test]
fn the_text_part_of_a_larger_model_has_its_own_names() {
    let (mut config, tensors) = adapter();
    config.text_path = "language_model.";
    let folder = tempfile::tempdir().unwrap();
    save_adapter(folder.path(), &config, &tensors).unwrap();
    let bytes = fs::read(folder.path().join("adapter_model.safetensors")).unwrap();
    let file = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let prefix = "base_model.model.model.language_model.layers.";
    assert!(file.names().iter().all(|name| name.starts_with(prefix)), "{:?}", file.names());
    let text = fs::read_to_string(folder.path().join("adapter_config.json")).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["target_modules"], r"model\.language_model\.layers\.(\d+)\.(self_attn|mlp)\.(q_proj|v_proj)");
    let (read, found) = load_adapter(folder.path()).unwrap();
    assert_eq!((read.target_modules, found), (config.target_modules, tensors));
}

/// What the configuration says of a method, its tensors must have, and nothing else.
#[test]
fn an_option_and_its_tensors_come_together() {
    let folder = saved();
    for (key, tensor) in [("use_dora", "lora_magnitude_vector"), ("lora_bias", "lora_b_bias")] {
        change_config(folder.path(), key, json!(true));
        let text = message(load_adapter(folder.path()));
        assert!(text.contains(&format!("q_proj.{tensor} is missing")), "{text}");
        change_config(folder.path(), key, json!(false));
    }
    for key in ["lora_magnitude_vector", "lora_magnitude_vector.default", "lora_B.bias"] {
        change_tensors(folder.path(), |all| {
            let name = format!("base_model.model.model.layers.0.self_attn.q_proj.{key}");
            all.push((name, "F32", vec![64], tiny::f32_bytes(&[1.0; 64])));
        });
        let text = message(load_adapter(folder.path()));
        assert!(text.contains(key) && text.contains("does not say"), "{text}");
    }
}

/// A rank of a module's own is that of its tensors.
#[test]
fn ranks_by_pattern_are_those_of_the_tensors() {
    let folder = saved();
    change_config(folder.path(), "rank_pattern", json!({"v_proj": 4, "layers.1.self_attn.q_proj": 4}));
    change_config(folder.path(), "r", json!(9));
    let text = message(load_adapter(folder.path()));
    assert!(text.contains("layers.0.self_attn.q_proj.lora_A") && text.contains("r is 9"), "{text}");
    change_config(folder.path(), "rank_pattern", json!({".*": 4}));
    change_config(folder.path(), "alpha_pattern", json!({"v_proj": 2, "proj": 7}));
    let (config, _) = load_adapter(folder.path()).unwrap();
    let placement = Placement::from_peft("adapter", &config, &tiny::config()).unwrap();
    for piece in &placement.pieces {
        let scale = if piece.site.module == "v_proj" { 0.5 } else { 2.0 };
        assert_eq!((piece.method.lora().unwrap().r, piece.method.lora().unwrap().scale), (4, scale), "{}", piece.site.name());
    }
}

/// Rows of tokens: in any order in the file, as a list or by module, with all that is named and nothing twice.
#[test]
fn rows_of_tokens_are_those_that_are_listed() {
    let key = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta";
    let rows = |count: usize| {
        let folder = saved();
        let values: Vec<f32> = (0..2 * count).map(|value| value as f32).collect();
        change_tensors(folder.path(), |all| all.push((key.to_owned(), "F32", vec![count, 2], tiny::f32_bytes(&values))));
        folder
    };
    for indices in
        [json!([9, 3, 5]), json!({"model.embed_tokens": [9, 3, 5]}), json!({"embed_tokens": [9, 3, 5], "lm_head": [9, 3, 5]})]
    {
        let folder = rows(3);
        change_config(folder.path(), "trainable_token_indices", indices);
        let (config, tensors) = load_adapter(folder.path()).unwrap();
        assert_eq!(config.token_indices["embed_tokens"], [3, 5, 9]);
        let found = tensors.iter().find(|tensor| tensor.name == "embed_tokens.token_rows").unwrap();
        assert_eq!(found.values, [2.0, 3.0, 4.0, 5.0, 0.0, 1.0]);
        let written = tempfile::tempdir().unwrap();
        save_adapter(written.path(), &config, &tensors).unwrap();
        assert_eq!(load_adapter(written.path()).unwrap(), (config, tensors));
    }
    for (count, indices, problem) in [
        (2, json!([9, 3, 5]), "has 2 rows, but trainable_token_indices has 3 tokens"),
        (3, json!([9, 3, 9]), "has two rows for token 9"),
        (3, json!(null), "has no trainable_token_indices for it"),
        (3, json!({"embed_tokens": [9, 3, 5], "lm_head": [1]}), "lm_head: rows are missing"),
    ] {
        let folder = rows(count);
        change_config(folder.path(), "trainable_token_indices", indices);
        assert!(message(load_adapter(folder.path())).contains(problem), "{problem}");
    }
    let folder = saved();
    change_config(folder.path(), "trainable_token_indices", json!([3]));
    assert!(message(load_adapter(folder.path())).contains("embed_tokens: rows are missing"));
    let folder = rows(1);
    change_config(folder.path(), "trainable_token_indices", json!([3]));
    change_config(folder.path(), "modules_to_save", json!(["embed_tokens"]));
    assert!(message(load_adapter(folder.path())).contains("which modules_to_save lists as well"));
}

/// Whole modules that the configuration lists are in the file, and no others.
#[test]
fn whole_modules_are_those_that_are_listed() {
    let folder = saved();
    let with = |key: &str| {
        change_tensors(folder.path(), |all| all.push((key.to_owned(), "F32", vec![96, 2], tiny::f32_bytes(&[0.5; 192]))));
    };
    // PEFT writes a matrix that is not listed where the vocabulary was extended, and reads it into the model.
    with("base_model.model.lm_head.weight");
    let (config, _) = load_adapter(folder.path()).unwrap();
    assert_eq!((config.modules_to_save.len(), config.whole_rows.get("lm_head")), (0, Some(&96)));
    change_config(folder.path(), "modules_to_save", json!(["lm_head"]));
    for key in ["base_model.model.lm_head.weight", "base_model.model.lm_head.modules_to_save.default.weight"] {
        with(key);
        let (config, tensors) = load_adapter(folder.path()).unwrap();
        assert_eq!(config.modules_to_save, ["lm_head"]);
        assert!(tensors.iter().any(|tensor| tensor.name == "lm_head.weight" && tensor.shape == [96, 2]));
        let written = tempfile::tempdir().unwrap();
        save_adapter(written.path(), &config, &tensors).unwrap();
        assert_eq!(load_adapter(written.path()).unwrap(), (config, tensors));
    }
    change_config(folder.path(), "modules_to_save", json!(["lm_head", "model.embed_tokens"]));
    assert!(message(load_adapter(folder.path())).contains("embed_tokens: is missing"));
}

/// A folder of a reference family's, and its architecture.
fn family(name: &str) -> (std::path::PathBuf, Architecture) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference/families").join(name);
    let model = Architecture::from_json_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    (folder, model)
}

/// Patterns are compared with what PEFT calls the modules of single experts. graftling has one rank and one alpha for all experts of a layer:
/// keys that mean them alike count for all, and one that means some of them is refused.
#[test]
fn patterns_mean_single_experts_as_in_peft() {
    let (folder, model) = family("qwen3_moe");
    let with = |keys: &[(&str, Value)]| {
        let copy = tempfile::tempdir().unwrap();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::copy(folder.join("adapter").join(name), copy.path().join(name)).unwrap();
        }
        keys.iter().for_each(|(key, value)| change_config(copy.path(), key, value.clone()));
        LoadedAdapter::load(copy.path(), &model).map(|adapter| adapter.placement)
    };
    // r is 2 and alpha 4 where nothing else is said.
    for (pattern, expected) in [
        (r"experts\.\d+\.gate_proj", 16.0),
        ("gate_proj", 16.0),
        (r".*\.experts\..*\.(gate|up)_proj", 16.0),
        // By this name PEFT has no module.
        ("experts.gate_proj", 2.0),
    ] {
        let placement = with(&[("alpha_pattern", json!({pattern: 32}))]).unwrap();
        let gates: Vec<_> = placement.pieces.iter().filter(|piece| piece.site.module == "gate_proj").collect();
        assert!(!gates.is_empty() && gates.iter().all(|piece| piece.site.experts.is_some()));
        for piece in gates {
            assert_eq!(piece.method.lora().unwrap().scale, expected, "{pattern}: {}", piece.site.name());
        }
    }
    let ranks = json!({r"mlp\.experts\.\d+\.\w+": 2, r"self_attn\.\w+": 2});
    for piece in with(&[("r", json!(9)), ("rank_pattern", ranks)]).unwrap().pieces {
        assert_eq!(piece.method.lora().unwrap().r, 2, "{}", piece.site.name());
    }
    let text = message(with(&[("alpha_pattern", json!({"layers.0.mlp.experts.1.gate_proj": 32}))]));
    for needle in
        ["adapter_config.json: key `alpha_pattern`", "model.layers.0.mlp.experts.1.gate_proj", r"experts\.\d+\.gate_proj"]
    {
        assert!(text.contains(needle), "{needle}: {text}");
    }
    // With the alpha that the others have, one may be named.
    with(&[("alpha_pattern", json!({"layers.0.mlp.experts.1.gate_proj": 4}))]).unwrap();
}

/// What PEFT has of all experts in one parameter is written as the modules of single experts, and means the same when it is read again.
#[test]
fn adapters_of_fused_experts_survive_saving_and_loading() {
    for name in ["mixtral", "qwen3_moe"] {
        let (folder, model) = family(name);
        let (file, tensors) = AdapterFile::load_for(&folder.join("adapter_fused"), &model).unwrap();
        let placement = Placement::of_file(name, &file, &model).unwrap();
        let ranks: std::collections::BTreeSet<usize> =
            placement.pieces.iter().map(|piece| piece.method.lora().unwrap().r).collect();
        assert_eq!(ranks.into_iter().collect::<Vec<_>>(), [2, 4], "{name}: ranks by pattern");
        let written = tempfile::tempdir().unwrap();
        file.save(written.path(), &tensors).unwrap();
        let (again, same) = AdapterFile::load_for(written.path(), &model).unwrap();
        assert_eq!((Placement::of_file(name, &again, &model).unwrap(), same), (placement, tensors), "{name}");
    }
}

/// Which of them was meant, nobody can tell.
#[test]
fn an_expert_is_adapted_once() {
    let (folder, model) = family("mixtral");
    let fused = folder.join("adapter_fused");
    let (file, tensors) = AdapterFile::load_for(&fused, &model).unwrap();
    let single = tempfile::tempdir().unwrap();
    file.save(single.path(), &tensors).unwrap();
    let files = [&fused, single.path()].map(|folder| fs::read(folder.join("adapter_model.safetensors")).unwrap());
    let [both, of_single] = files.each_ref().map(|bytes| safetensors::SafeTensors::deserialize(bytes).unwrap());
    // Of a rank that needs no pattern.
    let experts = of_single.iter().filter(|(name, _)| name.contains("experts.") && name.contains(".w2."));
    let all: Vec<_> = (both.iter().chain(experts))
        .map(|(name, view)| (name.to_owned(), "F32", view.shape().to_vec(), view.data().to_vec()))
        .collect();
    let copy = tempfile::tempdir().unwrap();
    fs::copy(fused.join("adapter_config.json"), copy.path().join("adapter_config.json")).unwrap();
    fs::write(copy.path().join("adapter_model.safetensors"), tiny::safetensors(&all)).unwrap();
    let text = message(AdapterFile::load_for(copy.path(), &model));
    assert!(text.contains("of all experts in one parameter and of single ones as well"), "{text}");
}

/// New rows begin with the mean of the model's, which are read once for it: for a whole matrix with its values, for rows whatever their number.
#[test]
fn the_mean_of_the_models_rows_takes_one_reading() {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_folder(folder.path());
    let files = ModelFiles::open(folder.path().to_str().unwrap()).unwrap();
    let config = AdapterConfig {
        modules_to_save: vec!["embed_tokens".to_owned()],
        whole_rows: [("embed_tokens".to_owned(), 42)].into(),
        token_indices: [("lm_head".to_owned(), vec![40, 41])].into(),
        ..adapter().0
    };
    let placement = Placement::from_peft("adapter", &config, &files.config).unwrap();
    let told = tiny::Told::of(&*files.tensors);
    let started = start(&placement, &Base { tensors: &told, weight_type: WeightType::Lossless }, 0).unwrap().trained;
    let whole = |tensor: &str| (tensor.to_owned(), 0..40);
    assert_eq!(told.read(), [whole("model.embed_tokens.weight"), whole("lm_head.weight")]);
    for (own, tensor, first) in
        [("embed_tokens.weight", "model.embed_tokens.weight", 40), ("lm_head.token_rows", "lm_head.weight", 0)]
    {
        let values = files.tensors.read_f32(tensor).unwrap();
        let found = &started.iter().find(|started| started.name == own).unwrap().values[64 * first..];
        assert_eq!(found.len(), 2 * 64);
        for (column, found) in found.iter().enumerate() {
            let mean = values.iter().skip(column % 64).step_by(64).map(|&value| f64::from(value)).sum::<f64>() / 40.0;
            assert_eq!(*found, mean as f32, "{own} column {column}");
        }
    }
}
