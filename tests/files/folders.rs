//! Hugging Face folders: one file or shards, three types, text, and clear refusals.

use std::{fs, path::Path};

use graftling::formats::{ModelFiles, TokenizerSource};
use graftling::storage::DType;
use serde_json::json;

use super::{message, tiny};

fn open(folder: &Path) -> graftling::Result<ModelFiles> {
    ModelFiles::open(folder.to_str().unwrap())
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_folder(folder.path());
    folder
}

/// Writes two shards, tensors in turn, and the index.
fn write_shards(folder: &Path) {
    let mut shards = [Vec::new(), Vec::new()];
    let mut map = serde_json::Map::new();
    for (index, (name, shape, values)) in tiny::tensors().into_iter().enumerate() {
        map.insert(name.clone(), json!(format!("model-{}.safetensors", index % 2)));
        shards[index % 2].push((name, "F32", shape, tiny::f32_bytes(&values)));
    }
    for (index, shard) in shards.iter().enumerate() {
        fs::write(folder.join(format!("model-{index}.safetensors")), tiny::safetensors(shard)).unwrap();
    }
    fs::write(folder.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
    fs::write(folder.join("config.json"), tiny::config_json().to_string()).unwrap();
}

#[test]
fn tensors_are_read_from_one_file_or_from_shards() {
    let (one, many) = (folder(), tempfile::tempdir().unwrap());
    write_shards(many.path());
    for folder in [&one, &many] {
        let files = open(folder.path()).unwrap();
        assert_eq!(files.config, tiny::config());
        assert_eq!(files.tensors.tensors().len(), tiny::tensors().len());
        for (name, shape, values) in tiny::tensors() {
            assert_eq!(files.tensors.find(&name).unwrap().shape, shape, "{name}");
            assert_eq!(files.tensors.read_f32(&name).unwrap(), values, "{name}");
        }
    }
}

/// As in transformers 5: an output matrix that differs counts, whatever the config says; a copy of the embedding does not.
#[test]
fn a_tied_config_with_an_output_matrix_of_its_own() {
    for own in [true, false] {
        let folder = folder();
        let mut config = tiny::config_json();
        config["tie_word_embeddings"] = json!(true);
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        if !own {
            let mut tensors = tiny::tensors();
            let embedding = tensors.iter().find(|(name, ..)| name == "model.embed_tokens.weight").unwrap().2.clone();
            tensors.iter_mut().find(|(name, ..)| name == "lm_head.weight").unwrap().2 = embedding;
            let all: Vec<_> = tensors.into_iter().map(|(name, shape, v)| (name, "F32", shape, tiny::f32_bytes(&v))).collect();
            fs::write(folder.path().join("model.safetensors"), tiny::safetensors(&all)).unwrap();
        }
        assert_eq!(open(folder.path()).unwrap().config.tie_word_embeddings, !own);
    }
}

/// As transformers 5 reads it: the one matrix that is there is both.
#[test]
fn a_tied_model_whose_only_matrix_is_the_output() {
    let folder = folder();
    let mut config = tiny::config_json();
    config["tie_word_embeddings"] = json!(true);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let tensors = tiny::tensors().into_iter().filter(|(name, ..)| name != "model.embed_tokens.weight");
    let all: Vec<_> = tensors.map(|(name, shape, values)| (name, "F32", shape, tiny::f32_bytes(&values))).collect();
    fs::write(folder.path().join("model.safetensors"), tiny::safetensors(&all)).unwrap();
    let files = open(folder.path()).unwrap();
    let output = tiny::tensors().into_iter().find(|(name, ..)| name == "lm_head.weight").unwrap().2;
    assert!(files.config.tie_word_embeddings);
    assert_eq!(files.tensors.read_f32("model.embed_tokens.weight").unwrap(), output);
}

/// An earlier, larger save leaves its index behind: the whole file counts, as in transformers.
#[test]
fn a_whole_file_counts_beside_a_stale_index() {
    let folder = folder();
    write_shards(folder.path());
    fs::write(folder.path().join("model-0.safetensors"), b"of an earlier save").unwrap();
    let files = open(folder.path()).unwrap();
    for (name, _, values) in tiny::tensors() {
        assert_eq!(files.tensors.read_f32(&name).unwrap(), values, "{name}");
    }
}

/// State and tables that libraries save beside the parameters.
#[test]
fn tensors_that_are_no_parameters_are_passed_over() {
    let folder = folder();
    let mut all: Vec<_> = tiny::tensors().into_iter().map(|(n, shape, v)| (n, "F32", shape, tiny::f32_bytes(&v))).collect();
    all.push(("model.layers.0.self_attn.q_proj._extra_state".to_owned(), "U8", vec![3], vec![0; 3]));
    all.push(("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), "F32", vec![1], vec![0; 4]));
    all.push(("model.layers.1.self_attn.rotary_emb.cos_cached".to_owned(), "F32", vec![1], vec![0; 4]));
    fs::write(folder.path().join("model.safetensors"), tiny::safetensors(&all)).unwrap();
    assert_eq!(open(folder.path()).unwrap().config, tiny::config());
}

/// The values are sixteenths, which all three types hold exactly.
#[test]
fn half_types_are_read_exactly() {
    for (dtype, storage) in [("F16", DType::F16), ("BF16", DType::BF16)] {
        let folder = folder();
        let bytes = |values: &[f32]| if dtype == "F16" { tiny::f16_bytes(values) } else { tiny::bf16_bytes(values) };
        let all: Vec<_> = tiny::tensors().into_iter().map(|(name, shape, v)| (name, dtype, shape, bytes(&v))).collect();
        fs::write(folder.path().join("model.safetensors"), tiny::safetensors(&all)).unwrap();
        let files = open(folder.path()).unwrap();
        for (name, _, values) in tiny::tensors() {
            assert_eq!(files.tensors.find(&name).unwrap().storage, storage);
            assert_eq!(files.tensors.read_f32(&name).unwrap(), values, "{name}");
        }
        let mut part = vec![0.0; 5 * 96];
        files.tensors.read_rows_f32("model.layers.0.mlp.down_proj.weight", 3..8, &mut part).unwrap();
        assert_eq!(part, files.tensors.read_f32("model.layers.0.mlp.down_proj.weight").unwrap()[3 * 96..8 * 96]);
    }
}

#[test]
fn tied_models_need_no_output_matrix_and_untied_ones_do() {
    let folder = folder();
    let without: Vec<_> = tiny::tensors().into_iter().filter(|tensor| tensor.0 != "lm_head.weight").collect();
    let without: Vec<_> =
        without.into_iter().map(|(name, shape, values)| (name, "F32", shape, tiny::f32_bytes(&values))).collect();
    fs::write(folder.path().join("model.safetensors"), tiny::safetensors(&without)).unwrap();
    let text = message(open(folder.path()));
    assert!(text.contains("lm_head.weight") && text.contains("[40, 64]") && text.contains("tied"), "{text}");
    let mut config = tiny::config_json();
    config["tie_word_embeddings"] = json!(true);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    assert!(open(folder.path()).unwrap().config.tie_word_embeddings);
}

#[test]
fn tensors_that_do_not_fit_are_named_with_the_expected_shape() {
    type Tensor = (String, &'static str, Vec<usize>, Vec<u8>);
    let name = "model.layers.1.self_attn.k_proj.weight";
    let cases: [(fn(&mut Vec<Tensor>), &str); 4] = [
        (|all| all.retain(|t| !t.0.contains("1.self_attn.k_proj")), "is missing; its shape would be [32, 64]"),
        (
            |all| all.iter_mut().find(|t| t.0.contains("1.self_attn.k_proj")).unwrap().2 = vec![64, 32],
            "has shape [64, 32], but the config asks for [32, 64]",
        ),
        (
            |all| {
                let tensor = all.iter_mut().find(|t| t.0.contains("1.self_attn.k_proj")).unwrap();
                (tensor.1, tensor.3) = ("F64", vec![0; 32 * 64 * 8]);
            },
            "is F64, which graftling does not read",
        ),
        (
            |all| all.push(("model.layers.1.self_attn.k_proj.weight.absmax".into(), "F32", vec![1], vec![0; 4])),
            "is not part of a LlamaForCausalLM with 2 layers",
        ),
    ];
    for (change, needle) in cases {
        let folder = folder();
        let mut all: Vec<Tensor> =
            tiny::tensors().into_iter().map(|(n, shape, v)| (n, "F32", shape, tiny::f32_bytes(&v))).collect();
        change(&mut all);
        fs::write(folder.path().join("model.safetensors"), tiny::safetensors(&all)).unwrap();
        let text = message(open(folder.path()));
        assert!(text.contains(name) && text.contains(needle), "{needle}: {text}");
    }
}

#[test]
fn damaged_files_are_named_with_what_is_wrong() {
    let whole = tiny::weights();
    for (bytes, needle) in [
        (whole[..whole.len() - 5].to_vec(), "cut off"),
        (whole[..100].to_vec(), "header"),
        (whole[..5].to_vec(), "too few"),
        ([&whole[..], b"x"].concat(), "its tensors end at"),
        ([&u64::MAX.to_le_bytes()[..], &whole[8..]].concat(), "header"),
        (Vec::new(), "too few"),
    ] {
        let folder = folder();
        fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        let text = message(open(folder.path()));
        assert!(text.contains("model.safetensors") && text.contains(needle), "{needle}: {text}");
    }
    // Offsets whose sums would leave 64 bits.
    let header = r#"{"a":{"dtype":"X","shape":[1],"data_offsets":[0,18446744073709551615]}}"#;
    let folder = folder();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    fs::write(folder.path().join("model.safetensors"), file).unwrap();
    assert!(message(open(folder.path())).contains("tensor a"));
}

#[test]
fn what_is_not_a_model_gets_advice() {
    let empty = tempfile::tempdir().unwrap();
    let at = |name: &str| empty.path().join(name);
    assert!(message(open(empty.path())).contains("config.json"));
    fs::write(at("adapter_config.json"), "{}").unwrap();
    assert!(message(open(empty.path())).contains("is an adapter"));
    fs::write(at("config.json"), tiny::config_json().to_string()).unwrap();
    assert!(message(open(empty.path())).contains("no weights"));
    fs::write(at("pytorch_model.bin"), "x").unwrap();
    let text = message(open(empty.path()));
    assert!(text.contains("torch.save") && text.contains("save_pretrained"), "{text}");
    assert!(message(open(&at("pytorch_model.bin"))).contains("Give the folder"));
    fs::write(at("a.safetensors"), tiny::weights()).unwrap();
    assert!(open(empty.path()).is_ok());
    assert!(message(open(&at("a.safetensors"))).contains("Give the folder"));
    fs::write(at("b.safetensors"), tiny::weights()).unwrap();
    assert!(message(open(empty.path())).contains("index"));
    assert!(message(open(&at("config.json"))).contains("without weights"));
    assert!(message(open(&at("nothing.gguf"))).contains("does not exist"));
}

/// What was quantised in a way that is not read is refused by the library's or the setting's name, before anything is downloaded.
#[test]
fn quantised_folders_that_are_not_read_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for (settings, name) in [
        (json!({"quant_method": "exl2", "bits": 4}), "exl2"),
        (json!({"quant_method": "hqq"}), "hqq"),
        (json!({"bits": 4}), "does not name"),
        (json!({"quant_method": "gptq", "bits": 5}), "`bits`: is 5"),
        (json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}), "\"marlin\""),
        (json!({"quant_method": "gptq", "bits": 4, "is_marlin_format": true}), "is_marlin_format"),
        (json!({"quant_method": "awq", "bits": 4, "version": "gemv"}), "\"gemv\""),
        (json!({"quant_method": "awq", "w_bit": 3}), "w_bit"),
        (json!({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}), "nvfp4-pack-quantized"),
        (json!({"quant_method": "fp8", "fmt": "e5m2"}), "e5m2"),
    ] {
        let mut config = tiny::config_json();
        config["quantization_config"] = settings.clone();
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let text = message(graftling::formats::hugging_face::config(folder.path()));
        assert!(text.contains(name) && text.contains("quantization_config"), "{settings}: {text}");
    }
    let mut config = tiny::config_json();
    config["quantization"] = json!({"group_size": 32, "bits": 4, "mode": "mxfp4"});
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    assert!(message(graftling::formats::hugging_face::config(folder.path())).contains("mxfp4"));
}

#[test]
fn an_index_leads_only_into_its_own_folder() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path());
    let index = folder.path().join("model.safetensors.index.json");
    for wrong in [json!({"weight_map": {"x": "../model-0.safetensors"}}), json!({"weight_map": {"x": 3}}), json!([])] {
        fs::write(&index, wrong.to_string()).unwrap();
        assert!(message(open(folder.path())).contains("model.safetensors.index.json"));
    }
    fs::write(&index, json!({"weight_map": {"x": "model-7.safetensors"}}).to_string()).unwrap();
    assert!(message(open(folder.path())).contains("model-7.safetensors"));
}

#[test]
fn text_comes_from_the_tokenizers_files() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let named = json!([{"name": "tool_use", "template": "no"}, {"name": "default", "template": "named"}]);
    let tokenizer = json!({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": true, "add_eos_token": true, "chat_template": named});
    fs::write(at("tokenizer_config.json"), tokenizer.to_string()).unwrap();
    fs::write(at("generation_config.json"), json!({"eos_token_id": [3, 9]}).to_string()).unwrap();
    let files = open(folder.path()).unwrap();
    assert_eq!((files.text.bos_token.as_deref(), files.text.eos_token.as_deref()), (Some("<s>"), Some("</s>")));
    assert_eq!(files.text.chat_template.as_deref(), Some("named"));
    // tokenizer.json says what goes first and last; `add_bos_token` and `add_eos_token` beside it do not count, as in transformers 5.
    assert_eq!((files.text.bos_token_id, files.text.add_bos), (Some(1), None));
    assert_eq!((&files.text.eos_token_ids, &files.config.eos_token_ids), (&vec![2, 3, 9], &vec![2, 3, 9]));
    assert!(matches!(files.text.tokenizer, TokenizerSource::Json(path) if path == at("tokenizer.json")));
    fs::write(at("chat_template.jinja"), "from the file").unwrap();
    assert_eq!(open(folder.path()).unwrap().text.chat_template.as_deref(), Some("from the file"));
    fs::write(at("tokenizer_config.json"), "{").unwrap();
    assert!(message(open(folder.path())).contains("tokenizer_config.json"));
}

/// A clone without `git lfs` holds pointers in place of large files.
#[test]
fn a_git_lfs_pointer_is_called_one_whatever_file_it_stands_for() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 269060552\n";
    let named = |message: String, file: &str| {
        assert!(message.contains(file) && message.contains("Git LFS pointer") && message.contains("git lfs pull"), "{message}");
    };
    for file in ["config.json", "model.safetensors"] {
        let folder = folder();
        fs::write(folder.path().join(file), pointer).unwrap();
        named(message(open(folder.path())), file);
    }
    let folder = folder();
    let [gguf, tokenizer] = ["model.gguf", "tokenizer.json"].map(|name| folder.path().join(name));
    fs::write(&gguf, pointer).unwrap();
    named(message(ModelFiles::open(gguf.to_str().unwrap())), "model.gguf");
    let mut text = open(folder.path()).unwrap().text;
    fs::write(&tokenizer, pointer).unwrap();
    text.tokenizer = TokenizerSource::Json(tokenizer);
    named(message(graftling::text::Tokenizer::from_source(&text)), "tokenizer.json");
    fs::write(folder.path().join("adapter_config.json"), pointer).unwrap();
    named(message(graftling::formats::peft::load_adapter(folder.path())), "adapter_config.json");
}

/// Opening a pipe would wait for a writer that never comes.
#[cfg(unix)]
#[test]
fn a_named_pipe_is_refused_and_not_waited_for() {
    let folder = folder();
    let path = folder.path().join("tokenizer.json");
    let _ = fs::remove_file(&path);
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let mut text = open(folder.path()).unwrap().text;
    text.tokenizer = TokenizerSource::Json(path);
    let refused = message(graftling::text::Tokenizer::from_source(&text));
    assert!(refused.contains("tokenizer.json: cannot be read: it is a pipe, not a regular file"), "{refused}");
}
