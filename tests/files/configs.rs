//! config.json: what is read from it, what follows from it, what is refused.

use std::{fs, path::Path};

use graftling::{
    adapter::targets::{expand_target_modules, parse_layers},
    architecture::{self, Architecture, Part, RopeScaling},
};
use serde_json::{Value, json};

use super::{message, tiny};

fn fixture(name: &str) -> Architecture {
    let path = format!("{}/tests/fixtures/configs/{name}.json", env!("CARGO_MANIFEST_DIR"));
    graftling::formats::hugging_face::config_file(path.as_ref()).unwrap()
}

fn changed(changes: Value) -> graftling::Result<Architecture> {
    let mut config = tiny::config_json();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    Architecture::from_json_str(&config.to_string())
}

/// The numbers of parameters that the models' own safetensors files declare (`model.safetensors.index.json`, model cards).
#[test]
fn published_parameter_counts() {
    for (name, published) in [
        ("llama-3-8b", 8_030_261_248_u64),
        ("llama-3-70b", 70_553_706_496),
        ("llama-3.1-405b", 405_853_388_800),
        ("mistral-7b-v0.1", 7_241_732_096),
        ("phi-3-mini-4k", 3_821_079_552),
        ("qwen2.5-72b", 72_706_203_648),
        ("gpt-oss-20b", 20_914_757_184),
    ] {
        let count: u64 = architecture::parameters(&fixture(name)).iter().map(architecture::Parameter::count).sum();
        assert_eq!(count, published, "{name}");
    }
}

#[test]
fn tied_output_is_counted_once() {
    let count = |tied: bool| -> u64 {
        let config = changed(json!({"tie_word_embeddings": tied})).unwrap();
        architecture::parameters(&config).iter().map(architecture::Parameter::count).sum()
    };
    assert_eq!(count(false) - count(true), 40 * 64);
}

/// Phi-3 fuses q, k, v and gate, up; Qwen 2 has biases on q, k, v alone.
#[test]
fn families_differ_in_their_modules() {
    let names =
        |config: &Architecture| architecture::linear_modules(config).iter().map(|m| (m.module, m.bias)).collect::<Vec<_>>();
    assert_eq!(
        names(&fixture("phi-3-mini-4k")),
        [("qkv_proj", false), ("o_proj", false), ("gate_up_proj", false), ("down_proj", false)]
    );
    assert_eq!(names(&fixture("qwen2.5-72b"))[..4], [("q_proj", true), ("k_proj", true), ("v_proj", true), ("o_proj", false)]);
    // Gate and up of all experts are one parameter, of which a file has two matrices.
    assert_eq!(
        names(&fixture("gpt-oss-20b")),
        [("q_proj", true), ("k_proj", true), ("v_proj", true), ("o_proj", true), ("gate_up_proj", true), ("down_proj", true)]
    );
    let qkv = &architecture::linear_modules(&fixture("phi-3-mini-4k"))[0];
    assert_eq!((qkv.out_features, qkv.in_features, qkv.part), (3 * 3072, 3072, Part::Attention));
}

/// A linear layer's number is its place among all, also where layers with experts stand between such without.
#[test]
fn linear_layers_are_numbered_in_their_order() {
    for family in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference/families")).unwrap() {
        let folder = family.unwrap().path();
        let model = graftling::formats::hugging_face::config_file(&folder.join("config.json")).unwrap();
        let numbers: Vec<usize> = architecture::sites(&model).iter().map(|site| site.number).collect();
        assert!(numbers.len() >= 4 * model.num_hidden_layers, "{}", folder.display());
        assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>(), "{}", folder.display());
    }
}

/// transformers 5 writes `rope_parameters` where 4 wrote `rope_theta` and `rope_scaling`.
#[test]
fn both_layouts_of_rope_mean_the_same() {
    let rule = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 8192});
    let old = changed(json!({"rope_theta": 5e5, "rope_scaling": rule})).unwrap();
    let mut rule_with_theta = rule.clone();
    rule_with_theta["rope_theta"] = json!(5e5);
    let new = changed(json!({"rope_theta": null, "rope_parameters": rule_with_theta})).unwrap();
    assert_eq!(old, new);
    assert_eq!(changed(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}})).unwrap(), tiny::config());
    let linear = changed(json!({"rope_scaling": {"type": "linear", "factor": 2}})).unwrap();
    assert_eq!(linear.ropes[0].scaling, RopeScaling::Linear { factor: 2.0 });
    assert_eq!(linear.ropes[0].inverse_frequencies(1)[0], 0.5);
    assert!(message(changed(json!({"rope_scaling": {"rope_type": "spiral"}})).unwrap().supported()).contains("`spiral`"));
}

/// As transformers 5 does: `rope_scaling` stands for all of `rope_parameters`, and what is within comes before what stands beside it.
#[test]
fn layouts_of_rope_that_disagree() {
    let rope = |changes: Value| changed(changes).unwrap().ropes.remove(0);
    let plain = json!({"rope_type": "default", "rope_theta": 3e4});
    let both = rope(json!({"rope_theta": 2e4, "rope_parameters": plain, "rope_scaling": {"rope_type": "linear", "factor": 4}}));
    assert_eq!((both.theta, both.scaling), (2e4, RopeScaling::Linear { factor: 4.0 }));
    assert_eq!(rope(json!({"rope_theta": 2e4, "rope_parameters": plain})).theta, 3e4);
    assert_eq!(rope(json!({"rope_theta": 2e4, "rope_parameters": plain, "rope_scaling": {}})).theta, 3e4);
    let yarn = json!({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64});
    let of_model = rope(json!({"rope_scaling": yarn, "original_max_position_embeddings": 32}));
    let within = rope(json!({"rope_scaling": yarn}));
    for (rope, expected) in [(of_model, 32), (within, 64)] {
        let RopeScaling::Yarn { original_max_position_embeddings, .. } = rope.scaling else { panic!("{rope:?}") };
        assert_eq!(original_max_position_embeddings, expected);
    }
}

/// A key that no list has may change the numbers; one that is off, or harmless in every model, does not.
#[test]
fn keys_that_are_not_known_are_refused_by_name() {
    for (changes, key) in [
        (json!({"attention_multiplier": 0.5}), "attention_multiplier"),
        (json!({"use_sandwich_norm": true}), "use_sandwich_norm"),
        (json!({"sliding_window": 4096}), "sliding_window"),
        (json!({"attn_type": "alibi"}), "attn_type"),
    ] {
        let text = message(changed(changes));
        assert!(text.contains(&format!("key `{key}`")) && text.contains("delete it"), "{text}");
    }
    for changes in [
        json!({"use_sandwich_norm": false, "sliding_window": null, "layer_kinds": [], "_remark": 5}),
        json!({"torch_dtype": "float16", "temperature": 0.6, "id2label": {"0": "A"}, "attention_dropout": 0.1}),
    ] {
        assert_eq!(changed(changes).unwrap(), tiny::config());
    }
}

/// Against transformers 5.23, `ROPE_INIT_FUNCTIONS["llama3"]` with the config of Llama 3.1 8B; it computes in f32.
#[test]
fn llama3_frequencies_are_those_of_transformers() {
    let mut config = fixture("llama-3.1-405b");
    assert_eq!(config.head_dim, 128);
    let frequencies = config.ropes[0].inverse_frequencies(1);
    for (i, expected) in LLAMA3_FREQUENCIES {
        assert!((frequencies[i] / expected - 1.0).abs() < 2e-6, "frequency {i}: {} for {expected}", frequencies[i]);
    }
    // GGUF files keep the divisors in f32; from them the rule is found again.
    config.ropes[0].scaling = RopeScaling::None;
    let plain = config.ropes[0].inverse_frequencies(1);
    let factors: Vec<f32> = plain.iter().zip(&frequencies).map(|(plain, scaled)| (plain / scaled) as f32).collect();
    assert_eq!(RopeScaling::from_factors(&factors, 5e5), fixture("llama-3.1-405b").ropes[0].scaling);
    let mut other = factors.clone();
    other[10] *= 1.5;
    assert!(matches!(RopeScaling::from_factors(&other, 5e5), RopeScaling::Factors(found) if found.len() == 64));
    assert_eq!(RopeScaling::from_factors(&[1.0; 64], 5e5), RopeScaling::None);
}

const LLAMA3_FREQUENCIES: [(usize, f64); 10] = [
    (0, 1.0),
    (20, 0.016560440883040428),
    (28, 0.0032114461064338684),
    (30, 0.0013718936825171113),
    (31, 0.0008567514596506953),
    (32, 0.0005248460220173001),
    (33, 0.0003126936499029398),
    (34, 0.0001785077911335975),
    (36, 7.784655463183299e-05),
    (63, 3.068925877869333e-07),
];

#[test]
fn architectures_are_refused_by_name_with_those_that_work() {
    let unknown = message(changed(json!({"architectures": ["GPT2LMHeadModel"]})));
    assert!(unknown.contains("GPT2LMHeadModel") && unknown.contains("LlamaForCausalLM"), "{unknown}");
    assert!(tiny::config().supported().is_ok());
    for name in ["mistral-7b-v0.1", "phi-3-mini-4k", "qwen2.5-72b", "gpt-oss-20b"] {
        assert!(fixture(name).supported().is_ok(), "{name}");
    }
    assert!(message(changed(json!({"head_dim": 6})).unwrap().supported()).contains("6 features"));
}

/// Without a word about rotations transformers takes that of the published models, and a config that is written says what is meant.
#[test]
fn the_rotation_of_gpt_oss_goes_without_saying() {
    let published = fixture("gpt-oss-20b");
    let path = format!("{}/tests/fixtures/configs/gpt-oss-20b.json", env!("CARGO_MANIFEST_DIR"));
    let mut config: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    config.as_object_mut().unwrap().retain(|key, _| !key.starts_with("rope_"));
    assert_eq!(Architecture::from_json_str(&config.to_string()).unwrap(), published);
    config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 10000.0});
    let plain = Architecture::from_json_str(&config.to_string()).unwrap();
    assert_eq!(plain.ropes[0].scaling, RopeScaling::None);
    for model in [&published, &plain] {
        let again = Architecture::from_json_str(&model.to_json().to_string()).unwrap();
        assert_eq!((model.differs(&again), again.windows_of_layers()), (None, model.windows_of_layers()));
    }
    assert_eq!(published.windows_of_layers()[..3], [Some(128), None, Some(128)]);
}

#[test]
fn wrong_values_are_named() {
    for (changes, key) in [
        (json!({"hidden_size": null}), "hidden_size"),
        (json!({"hidden_size": "64"}), "hidden_size"),
        (json!({"vocab_size": 0}), "vocab_size"),
        (json!({"vocab_size": -1}), "vocab_size"),
        (json!({"num_hidden_layers": 1_000_000_000}), "num_hidden_layers"),
        (json!({"num_attention_heads": 5}), "num_attention_heads"),
        (json!({"num_attention_heads": 0}), "num_attention_heads"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        (json!({"head_dim": 15}), "head_dim"),
        (json!({"rms_norm_eps": 0}), "rms_norm_eps"),
        (json!({"rope_theta": true}), "rope_theta"),
        (json!({"rope_scaling": {"rope_type": "linear"}}), "factor"),
        (json!({"rope_scaling": {"rope_type": "linear", "factor": 0}}), "rope_scaling"),
        (json!({"eos_token_id": "</s>"}), "eos_token_id"),
        (json!({"hidden_act": "gelu"}), "hidden_act"),
        (json!({"architectures": null, "model_type": null}), "architectures"),
    ] {
        let text = message(changed(changes.clone()));
        assert!(text.contains(key) && text.starts_with("config.json"), "{changes}: {text}");
    }
    for text in ["", "[]", "{", "\u{0}"] {
        message(Architecture::from_json_str(text));
    }
}

#[test]
fn end_tokens_are_one_id_or_several() {
    assert_eq!(tiny::config().eos_token_ids, [2, 3]);
    assert_eq!(changed(json!({"eos_token_id": 7})).unwrap().eos_token_ids, [7]);
    assert!(changed(json!({"eos_token_id": null})).unwrap().eos_token_ids.is_empty());
}

#[test]
fn target_modules_and_layers_as_users_write_them() {
    let config = tiny::config();
    let expand = |names: &[&str]| expand_target_modules(&names.iter().map(|name| name.to_string()).collect::<Vec<_>>(), &config);
    assert_eq!(expand(&["attention"]).unwrap(), ["q_proj", "k_proj", "v_proj", "o_proj"]);
    assert_eq!(expand(&["mlp", "v_proj", "up_proj"]).unwrap(), ["v_proj", "gate_proj", "up_proj", "down_proj"]);
    assert_eq!(expand(&["all-linear"]).unwrap().len(), 7);
    assert_eq!(expand(&["q_proj,v_proj"]).unwrap(), ["q_proj", "v_proj"]);
    let text = message(expand(&["q_porj"]));
    assert!(text.contains("`q_porj`") && text.contains("Did you mean `q_proj`?") && text.contains("all-linear"), "{text}");
    message(expand(&[]));

    assert_eq!(parse_layers("8-10, 2,9", 12).unwrap(), [2, 8, 9, 10]);
    assert_eq!(parse_layers("early,11", 12).unwrap(), [0, 1, 2, 3, 11]);
    assert_eq!(parse_layers("middle", 12).unwrap(), [4, 5, 6, 7]);
    assert_eq!(parse_layers("late", 10).unwrap(), [7, 8, 9]);
    assert_eq!(parse_layers("25%-50%", 12).unwrap(), [3, 4, 5]);
    let thirds: Vec<usize> = ["early", "middle", "late"].iter().flat_map(|third| parse_layers(third, 31).unwrap()).collect();
    assert_eq!(thirds, (0..31).collect::<Vec<_>>());
    for wrong in ["50%", "70%-30%", "30%-130%", "30-70%", "40%-41%", "upper"] {
        assert!(message(parse_layers(wrong, 12)).starts_with("--layers"), "{wrong}");
    }
    for wrong in ["", "12", "5-2", "a", "1-", "-1", "0-99999999999999999999", "1-2-3"] {
        assert!(message(parse_layers(wrong, 12)).starts_with("--layers"), "{wrong}");
    }
}
