//! Sound files of a few kilobytes for every target.

use std::path::{Path, PathBuf};

use graftling::architecture::{self, Architecture};
use serde_json::{Value, json};

use super::gguf_file::{ARRAY, BOOL, F32, GgufFile, STRING, U32, ggml_name, string, strings};
use super::tiny;

type Files = Vec<Vec<u8>>;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

fn json_fixture(name: &str) -> Value {
    serde_json::from_slice(&read(name)).unwrap()
}

fn texts(values: &[Value]) -> Files {
    values.iter().map(|value| value.to_string().into_bytes()).collect()
}

/// One layer, two heads, eight tokens.
pub fn config_json() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": 8, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "max_position_embeddings": 64, "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": [2, 3],
    })
}

pub fn model_config() -> Architecture {
    Architecture::from_json_str(&config_json().to_string()).unwrap()
}

/// Name, shape and values of every tensor of that model.
fn tensors() -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let parameters = architecture::parameters(&model_config());
    parameters.into_iter().map(|p| (p.name.clone(), p.shape.clone(), tiny::values(7, p.count() as usize))).collect()
}

/// The model's weights in two files of f16 and bf16, by name.
pub fn shards() -> [Vec<u8>; 2] {
    let tensors = tensors();
    let (first, second) = tensors.split_at(tensors.len() / 2);
    let file = |tensors: &[(String, Vec<usize>, Vec<f32>)], dtype: &'static str, bytes: fn(&[f32]) -> Vec<u8>| {
        let all = tensors.iter().map(|(name, shape, values)| (name.clone(), dtype, shape.clone(), bytes(values)));
        tiny::safetensors(&all.collect::<Vec<_>>())
    };
    [file(first, "F16", tiny::f16_bytes), file(second, "BF16", tiny::bf16_bytes)]
}

pub fn safetensors() -> Files {
    let mut files = Vec::new();
    for (dtype, bytes) in [("F16", tiny::f16_bytes as fn(&[f32]) -> Vec<u8>), ("F32", tiny::f32_bytes)] {
        let all: Vec<_> =
            tensors().iter().map(|(name, shape, values)| (name.clone(), dtype, shape.clone(), bytes(values))).collect();
        files.push(tiny::safetensors(&all));
    }
    files
}

/// The model as `torch.save` writes it.
pub fn pytorch() -> Files {
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let number = |number: usize| [b"J", &(number as u32).to_le_bytes()[..]].concat();
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    let mut files = Vec::new();
    for (key, (name, shape, values)) in tensors().into_iter().enumerate() {
        let strides: Vec<usize> = (0..shape.len()).map(|at| shape[at + 1..].iter().product()).collect();
        let tuple =
            |sizes: &[usize]| [b"(".to_vec(), sizes.iter().flat_map(|&size| number(size)).collect(), b"t".to_vec()].concat();
        pickle.extend(text(&name));
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle.extend([text("storage"), b"ctorch\nHalfStorage\n".to_vec(), text(&key.to_string()), text("cpu")].concat());
        pickle.extend([number(values.len()), b"tQ".to_vec(), number(0), tuple(&shape), tuple(&strides)].concat());
        pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
        files.push((format!("archive/data/{key}"), tiny::f16_bytes(&values)));
    }
    pickle.extend(b"u.");
    files.push(("archive/data.pkl".to_owned(), pickle));
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in files {
        zip.start_file(name, stored).unwrap();
        std::io::Write::write_all(&mut zip, &bytes).unwrap();
    }
    vec![zip.finish().unwrap().into_inner()]
}

/// Folders of `tests/fixtures/reference/quantised/`, one of each library.
pub const QUANTISED: [&str; 5] = ["gptq", "awq", "mlx_mixed", "compressed_int4", "fp8_block"];

pub fn quantised() -> Files {
    QUANTISED.map(|name| read(&format!("reference/quantised/{name}/model.safetensors"))).into()
}

pub fn quantised_configs() -> Files {
    QUANTISED.map(|name| read(&format!("reference/quantised/{name}/config.json"))).into()
}

pub fn safetensors_index() -> Files {
    let tensors = tensors();
    let place = |index: usize| if index < tensors.len() / 2 { "model-1.safetensors" } else { "model-2.safetensors" };
    let map: serde_json::Map<String, Value> =
        tensors.iter().enumerate().map(|(index, (name, ..))| (name.clone(), json!(place(index)))).collect();
    let reference = read("reference/tiny/mha_untied/model.safetensors.index.json");
    vec![json!({ "metadata": { "total_size": 1234 }, "weight_map": map }).to_string().into_bytes(), reference]
}

/// Byte-level BPE in Q8_0, and SentencePiece in Q4_0 and Q4_1.
pub fn gguf() -> Files {
    let number = |value: u32| (U32, value.to_le_bytes().to_vec());
    let real = |value: f32| (F32, value.to_le_bytes().to_vec());
    let numbers = |kind: u32, values: Vec<[u8; 4]>| {
        (ARRAY, [&kind.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &values.concat()].concat())
    };
    let byte_level: Vec<(&str, (u32, Vec<u8>))> = vec![
        ("tokenizer.ggml.model", (STRING, string("gpt2"))),
        ("tokenizer.ggml.pre", (STRING, string("llama-bpe"))),
        ("tokenizer.ggml.tokens", (ARRAY, strings(&["<unk>", "<s>", "</s>", "a", "b", "ab", "Ġ", "Ġab"]))),
        ("tokenizer.ggml.merges", (ARRAY, strings(&["a b", "Ġ ab"]))),
        ("tokenizer.ggml.token_type", numbers(5, [2_i32, 3, 3, 1, 1, 1, 1, 4].map(i32::to_le_bytes).to_vec())),
        ("tokenizer.ggml.eot_token_id", number(3)),
        ("tokenizer.ggml.add_bos_token", (BOOL, vec![1])),
    ];
    let sentence_piece: Vec<(&str, (u32, Vec<u8>))> = vec![
        ("tokenizer.ggml.model", (STRING, string("llama"))),
        ("tokenizer.ggml.tokens", (ARRAY, strings(&["<unk>", "<s>", "</s>", "<0x61>", "\u{2581}", "a", "b", "ab"]))),
        ("tokenizer.ggml.scores", numbers(6, [0.0_f32, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -0.5].map(f32::to_le_bytes).to_vec())),
        ("tokenizer.ggml.token_type", numbers(5, [2_i32, 3, 3, 6, 1, 1, 1, 1].map(i32::to_le_bytes).to_vec())),
        ("tokenizer.ggml.unknown_token_id", number(0)),
        ("tokenizer.ggml.add_space_prefix", (BOOL, vec![1])),
        ("llama.rope.scaling.type", (STRING, string("linear"))),
        ("llama.rope.scaling.factor", real(2.0)),
    ];
    let file = |own: &[(&str, (u32, Vec<u8>))], matrices: u32| {
        let common = [
            ("general.architecture", (STRING, string("llama"))),
            ("general.name", (STRING, string("Tiny"))),
            ("llama.block_count", number(1)),
            ("llama.context_length", number(64)),
            ("llama.embedding_length", number(32)),
            ("llama.feed_forward_length", number(32)),
            ("llama.attention.head_count", number(2)),
            ("llama.attention.head_count_kv", number(1)),
            ("llama.attention.layer_norm_rms_epsilon", real(1e-5)),
            ("llama.rope.freq_base", real(10000.0)),
            ("tokenizer.ggml.bos_token_id", number(1)),
            ("tokenizer.ggml.eos_token_id", number(2)),
            ("tokenizer.chat_template", (STRING, string("{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}"))),
        ];
        let pairs = common.iter().chain(own).map(|(key, (kind, value))| ((*key).to_owned(), *kind, value.clone())).collect();
        let tensor = |(name, shape, values): (String, Vec<usize>, Vec<f32>)| {
            let dimensions = shape.iter().rev().map(|&size| size as u64).collect();
            // Bytes of a block of 32 values in ggml's types 2 (Q4_0), 3 (Q4_1) and 8 (Q8_0); vectors are f32.
            let block = match matrices {
                2 => 18,
                3 => 20,
                _ => 34,
            };
            match shape.len() {
                1 => (ggml_name(&name), dimensions, 0, tiny::f32_bytes(&values)),
                _ => (ggml_name(&name), dimensions, matrices, vec![0x11; values.len() / 32 * block]),
            }
        };
        GgufFile { version: 3, pairs, tensors: tensors().into_iter().map(tensor).collect() }.bytes()
    };
    vec![file(&byte_level, 8), file(&sentence_piece, 2), file(&sentence_piece, 3)]
}

pub fn config() -> Files {
    let mut files = texts(&[config_json(), tiny::config_json()]);
    files.push(read("configs/llama-3.1-405b.json"));
    files.push(read("reference/tiny/llama3_rope/config.json"));
    files
}

pub fn adapter_config() -> Files {
    let others = ["tiny/grouped_tied", "adapters/token_rows_untied", "adapters/some_norms"];
    let files = others.map(|name| read(&format!("reference/{name}/adapter/adapter_config.json")));
    std::iter::once(adapter_config_json().to_string().into_bytes()).chain(files).collect()
}

pub fn adapter_config_json() -> Value {
    json!({
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "lora_dropout": 0.1, "target_modules": ["up_proj"], "bias": "none",
        "layers_to_transform": null, "base_model_name_or_path": "m", "use_rslora": false, "task_type": "CAUSAL_LM",
    })
}

pub fn adapter_tensors() -> Files {
    let name = |matrix: &str| format!("base_model.model.model.layers.0.mlp.up_proj.{matrix}.weight");
    let matrix = |matrix: &str, shape: [usize; 2]| (name(matrix), "F32", shape.to_vec(), tiny::f32_bytes(&tiny::values(3, 64)));
    vec![tiny::safetensors(&[matrix("lora_A", [2, 32]), matrix("lora_B", [32, 2])])]
}

/// All kinds of parts that `tokenizer.json` may name.
pub fn tokenizer() -> Files {
    let json = |model: Value, normalizer: Value, pre_tokenizer: Value, post_processor: Value, decoder: Value| {
        let special = |id: u32, text: &str| {
            json!({ "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": true, "normalized": id > 1,
                    "special": true })
        };
        json!({
            "version": "1.0", "truncation": { "direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0 },
            "padding": null, "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder,
            "model": model,
        })
    };
    let vocabulary = json!({ "<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "ab": 5, "Ġ": 6, "##b": 7 });
    let split = json!({ "type": "Split", "pattern": { "Regex": "\\p{N}{1,3}| ?\\p{L}+|\\s+(?!\\S)" }, "behavior": "Isolated",
                        "invert": false });
    let values = [
        json(
            json!({ "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                    "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true, "ignore_merges": true,
                    "vocab": vocabulary, "merges": [["a", "b"]] }),
            json!({ "type": "NFC" }),
            json!({ "type": "Sequence", "pretokenizers": [split, { "type": "Digits", "individual_digits": true },
                    { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true }] }),
            json!({ "type": "TemplateProcessing",
                    "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
                    "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
                    "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } } }),
            json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true }),
        ),
        json(
            json!({ "type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                    "vocab": vocabulary }),
            json!({ "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
                    "lowercase": true }),
            json!({ "type": "BertPreTokenizer" }),
            json!({ "type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1] }),
            json!({ "type": "WordPiece", "prefix": "##", "cleanup": true }),
        ),
        json(
            json!({ "type": "Unigram", "unk_id": 0, "byte_fallback": true,
                    "vocab": [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0], ["a", -1.0], ["b", -2.0], ["ab", -0.5], ["<0x61>", -9.0]] }),
            json!({ "type": "Sequence", "normalizers": [{ "type": "Strip", "strip_left": true, "strip_right": true },
                    { "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " }, { "type": "Nmt" }, { "type": "NFKC" }] }),
            json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true }),
            json!({ "type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1], "trim_offsets": true,
                    "add_prefix_space": false }),
            json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true }),
        ),
        json(
            json!({ "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" }),
            Value::Null,
            json!({ "type": "Punctuation", "behavior": "Contiguous" }),
            Value::Null,
            json!({ "type": "CTC", "pad_token": "<unk>", "word_delimiter_token": "|", "cleanup": true }),
        ),
    ];
    let mut files = texts(&values);
    // Normalisers in normalisers that make a text longer, and a post-processor of many pieces: harmless as they stand here.
    let mut nest = json!({ "type": "Prepend", "prepend": "a" });
    for content in ["aa", "ab", "ba"] {
        let grow = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": content });
        nest = json!({ "type": "Sequence", "normalizers": [nest, grow] });
    }
    let mut grows = values[0].clone();
    grows["normalizer"] = nest;
    let many = vec![json!({ "SpecialToken": { "id": "<s>", "type_id": 0 } }); 40];
    grows["post_processor"]["single"] = [many, vec![json!({ "Sequence": { "id": "A", "type_id": 0 } })]].concat().into();
    files.extend(texts(&[grows]));
    files.push(read("text/sentencepiece_tokenizer.json"));
    files
}

pub fn tokenizer_config() -> Files {
    let token = json!({ "__type": "AddedToken", "content": "<s>", "lstrip": false, "special": true });
    texts(&[
        json!({ "bos_token": token, "eos_token": "</s>", "add_bos_token": true, "model_max_length": 2048,
                "chat_template": "{% for m in messages %}{{ bos_token + m['role'] + m.content }}{% endfor %}" }),
        json!({ "eos_token": null, "chat_template": [{ "name": "default", "template": "{{ messages | length }}" },
                { "name": "tool_use", "template": "x" }] }),
    ])
}

/// The templates of all families, and some that try to do harm.
pub fn chat_template() -> Files {
    let families = json_fixture("text/templates.json")["templates"].clone();
    let families = families.as_object().unwrap().values();
    let mut files: Files = families.map(|family| family["template"].as_str().unwrap().as_bytes().to_vec()).collect();
    let harm = [
        "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% include 'other' %}{% import 'x' as y %}{% extends 'z' %}",
        "{% set ns = namespace(text='') %}{% for m in messages %}{% set ns.text = ns.text ~ m.content %}{% endfor %}{{ ns.text }}",
        "{{ messages | tojson(indent=4) | replace('a', 'bb') | upper | trim | reverse | list | join(', ') }}",
        "{{ messages[0].content.split(' ')[1:][::-1] | map('upper') | first | default('x', true) | indent(4) }}",
        "{{ strftime_now('%d %b %Y') }}{{ raise_exception('no') }}",
        "{%- for m in messages if m.role != 'user' -%}{{ loop.index0 * 2 ** 3 // 2 % 5 - 1 }}{% break %}{%- else -%}{{ [1, 2] * 3 }}{%- endfor %}",
        "{% set ns = namespace(x=1) %}{% for i in range(150) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}{{ ns.x == [ns.x] }}",
        "{{ 1+1+1+1+1+1+1+1 ~ 'a' ~ 'b' ~ 2**2**2 }}{{ ('ab' * 3000) | replace('a', 'c') | list | sort | unique | join }}",
        "{% for a, b in {'a': (1, 'x'), 'b': ()}.items() if b < (2,) or a >= 'a' %}{{ (a, b) }}{{ range(3)[::-1] }}{% endfor %}",
    ];
    files.extend(harm.map(|text| text.as_bytes().to_vec()));
    files
}

pub fn data() -> Files {
    let lines = [
        r#"{"messages": [{"role": "system", "content": "ab"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b <s> ab"}]}"#,
        r#"{"prompt": "a b\n", "completion": " ab"}"#,
        r#"{"text": "ab \u00e9 \ud83d\ude42"}"#,
        r#"{"input_ids": [3, 4, 5], "labels": [-100, 4, 5]}"#,
    ];
    let mut files: Files = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
    files.push(lines.join("\n").into_bytes());
    files.push([b"\xef\xbb\xbf", lines.join("\r\n\r\n").as_bytes()].concat());
    files
}

pub fn recipe() -> Files {
    let all = "model = \"m\"\ndata = \"d.jsonl\"\nout = \"o\"\neval_data = \"e.jsonl\"\nresume = true\nlora_r = 8\nlora_alpha = 16.0\n\
               lora_dropout = 0.1\ntarget_modules = [\"q_proj\", \"mlp\"]\nlayers = \"1-3,5\"\nlearning_rate = 2e-4\n\
               lr_schedule = \"linear\"\nwarmup_steps = 3\nweight_decay = 0.01\nmax_grad_norm = 1.0\nbatch_size = 4\n\
               gradient_accumulation_steps = 2\nmax_length = 512\nmax_steps = 10\nepochs = 1\nseed = 7\nno_shuffle = true\n\
               no_packing = false\neval_steps = 5\nsave_steps = 5\nsave_total_limit = 2\nweights = \"bf16\"\ndevice = \"0\"\n";
    vec![all.as_bytes().to_vec(), b"[table]\nkey = { a = 1 }\n[[list]]\n'quoted' = '''\nx'''\n".to_vec()]
}

pub fn run_state() -> Files {
    texts(&[json!({
        "format_version": 2, "written_by": "graftling 0.1.0", "step": 4, "position": { "epoch": 1, "index": 2 }, "batches": 8,
        "options": { "seed": "0", "learning_rate": "0.001" }, "base_weights": "00ff", "template_time": 1700000000,
        "may_replace": { "adapter_config.json": "00ff" },
    })])
}

pub fn optimizer_state() -> Files {
    let matrix = |moment: &str, matrix: &str, shape: [usize; 2]| {
        let name = format!("{moment}.layers.0.mlp.up_proj.{matrix}");
        // Squares, so that they may be second moments.
        let values: Vec<f32> = tiny::values(5, 64).into_iter().map(|value| value * value).collect();
        (name, "F32", shape.to_vec(), tiny::f32_bytes(&values))
    };
    let moments = ["exp_avg", "exp_avg_sq"].into_iter();
    let all: Vec<_> = moments.flat_map(|moment| [matrix(moment, "lora_a", [2, 32]), matrix(moment, "lora_b", [32, 2])]).collect();
    vec![tiny::safetensors(&all)]
}

pub fn metrics() -> Files {
    let line = |step: u64| {
        json!({ "step": step, "loss": 1.25, "learning_rate": 0.001, "grad_norm": 0.5, "tokens": 64, "supervised_tokens": 60,
                "tokens_per_second": 99.5, "gpu_bytes": 12345, "eval_loss": 1.5 })
    };
    vec![(1..5).map(|step| format!("{}\n", line(step))).collect::<String>().into_bytes()]
}
