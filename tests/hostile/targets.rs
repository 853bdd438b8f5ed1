//! What is read: one target a kind of file, with all that a command would do with it before the GPU is asked.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use graftling::adapter::{AdapterLayout, Placement};
use graftling::architecture::{self, Architecture, Parameter};
use graftling::data;
use graftling::formats::{ModelFiles, TextSource, TokenizerSource, peft};
use graftling::text::{ChatTemplate, Message, Tokenizer};
use graftling::train::checkpoint::{Checkpoint, RunState, latest};
use graftling::train::keep::{folder::FILES, sums};
use graftling::train::metrics::{METRICS_FILE, MetricsLog};
use graftling::train::options::Recipe;

use super::mutate::Structure;
use super::seeds;
use super::words::{DATA, JSON, RECIPE, TEMPLATE, TENSORS, TOKENIZER};

pub struct Target {
    pub name: &'static str,
    pub seeds: fn() -> Vec<Vec<u8>>,
    pub structure: Structure,
    /// Words of the format that a mutation may put in.
    pub words: &'static [&'static str],
    /// Reads an input, with a folder of its own. Every outcome but a panic is right.
    pub read: fn(&Path, &[u8]),
    /// Memory that reading may take: so many times the input's size,
    pub multiple: usize,
    /// and so much more.
    pub base: usize,
}

/// Directories cost a few times their bytes; a config may ask for 4096 layers, whose names take some megabytes.
const MODEL: (usize, usize) = (16, 12 << 20);
/// A tree of JSON values: a value takes 72 bytes, and may be written with two (`1,`).
const TREE: (usize, usize) = (64, 1 << 20);

const fn target(name: &'static str, seeds: fn() -> Vec<Vec<u8>>, read: fn(&Path, &[u8])) -> Target {
    Target { name, seeds, structure: Structure::Text, words: JSON, read, multiple: TREE.0, base: TREE.1 }
}

pub const ALL: &[Target] = &[
    Target {
        structure: Structure::Safetensors,
        words: TENSORS,
        multiple: MODEL.0,
        base: MODEL.1,
        ..target("safetensors", seeds::safetensors, safetensors)
    },
    target("safetensors_index", seeds::safetensors_index, safetensors_index),
    Target { structure: Structure::Archive, multiple: 64, base: MODEL.1, ..target("pytorch", seeds::pytorch, pytorch) },
    Target {
        structure: Structure::Safetensors,
        words: TENSORS,
        multiple: 64,
        base: MODEL.1,
        ..target("quantised", seeds::quantised, quantised)
    },
    Target { multiple: 64, base: MODEL.1, ..target("quantised_config", seeds::quantised_configs, quantised_config) },
    // The tokenizer's tables take about 200 bytes a token, and a token may be written with nine.
    Target { structure: Structure::Gguf, multiple: 64, base: MODEL.1, ..target("gguf", seeds::gguf, gguf) },
    Target { base: MODEL.1, ..target("config", seeds::config, config) },
    target("adapter_config", seeds::adapter_config, adapter_config),
    Target {
        structure: Structure::Safetensors,
        words: TENSORS,
        ..target("adapter_tensors", seeds::adapter_tensors, adapter_tensors)
    },
    // Added tokens go into an automaton; what normalisers and decoders make of a text is bounded by the worker alone, at 256 MiB.
    Target { words: TOKENIZER, multiple: 256, base: 300 << 20, ..target("tokenizer", seeds::tokenizer, tokenizer) },
    target("tokenizer_config", seeds::tokenizer_config, tokenizer_config),
    // What the program lets a template hold (a template that wants more ends it, which is tested by itself), and its output.
    Target { words: TEMPLATE, base: 300 << 20, ..target("chat_template", seeds::chat_template, chat_template) },
    Target { words: DATA, multiple: 256, base: 4 << 20, ..target("data", seeds::data, data) },
    Target { words: RECIPE, multiple: 256, ..target("recipe", seeds::recipe, recipe) },
    target("run_state", seeds::run_state, run_state),
    Target {
        structure: Structure::Safetensors,
        words: TENSORS,
        ..target("optimizer_state", seeds::optimizer_state, optimizer_state)
    },
    target("metrics", seeds::metrics, metrics),
];

/// Opens a model and does with it what a command does, all tensors read.
fn model(spec: &Path) {
    let Ok(files) = ModelFiles::open(spec.to_str().unwrap()) else { return };
    for info in files.tensors.tensors() {
        let values = files.tensors.read_f32(&info.name).unwrap();
        assert_eq!(values.len() as u64, info.values());
    }
    text(&files.text);
}

/// Encodes, decodes and renders.
fn text(source: &TextSource) {
    if let Ok(tokenizer) = Tokenizer::from_source(source) {
        encode(&tokenizer);
    }
    if let Ok(Some(template)) = ChatTemplate::from_source(source) {
        render(&template);
    }
}

fn encode(tokenizer: &Tokenizer) {
    for text in ["", "ab  a7 <s>é🙂</s>\n\tb", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"] {
        let Ok(encoded) = tokenizer.encode_with_ranges(text, true) else { continue };
        assert_eq!(encoded.ids.len(), encoded.ranges.len());
        let _ = (tokenizer.decode(&encoded.ids, true), tokenizer.decode(&encoded.ids, false));
        let _ = tokenizer.encode_literally(text, std::slice::from_ref(&(3..text.len().min(9))));
        let mut stream = tokenizer.decode_stream();
        encoded.ids.iter().for_each(|id| drop(stream.push(*id)));
        let _ = stream.finish();
    }
    let _ = tokenizer.decode(&[0, 1, 7, u32::MAX], false);
}

fn render(template: &ChatTemplate) {
    let turns = [Message::new("system", "be brief"), Message::new("user", "a {{ x }}"), Message::new("assistant", "b")];
    for count in [0, 2, 3] {
        let _ = template.render(&turns[..count], count == 2);
    }
}

/// The model's folder with this file in it, beside the sound ones.
fn in_model_folder(scratch: &Path, name: &str, input: &[u8]) -> PathBuf {
    let folder = scratch.join("model");
    if !folder.is_dir() {
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("config.json"), seeds::config_json().to_string()).unwrap();
    }
    fs::write(folder.join(name), input).unwrap();
    folder
}

fn safetensors(scratch: &Path, input: &[u8]) {
    model(&in_model_folder(scratch, "model.safetensors", input));
}

fn pytorch(scratch: &Path, input: &[u8]) {
    model(&in_model_folder(scratch, "pytorch_model.bin", input));
}

/// The weights with the config of each library.
fn quantised(scratch: &Path, input: &[u8]) {
    for (name, config) in seeds::QUANTISED.into_iter().zip(seeds::quantised_configs()) {
        let folder = scratch.join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.json"), config).unwrap();
        fs::write(folder.join("model.safetensors"), input).unwrap();
        model(&folder);
    }
}

/// The config with the weights of the library that it was made for, as far as it tells.
fn quantised_config(scratch: &Path, input: &[u8]) {
    fs::write(scratch.join("config.json"), input).unwrap();
    for weights in seeds::quantised() {
        fs::write(scratch.join("model.safetensors"), weights).unwrap();
        model(scratch);
    }
}

fn safetensors_index(scratch: &Path, input: &[u8]) {
    static SHARDS: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    let folder = in_model_folder(scratch, "model.safetensors.index.json", input);
    for (index, shard) in SHARDS.get_or_init(seeds::shards).iter().enumerate() {
        let path = folder.join(format!("model-{}.safetensors", index + 1));
        if !path.is_file() {
            fs::write(path, shard).unwrap();
        }
    }
    model(&folder);
}

fn gguf(scratch: &Path, input: &[u8]) {
    let path = scratch.join("model.gguf");
    fs::write(&path, input).unwrap();
    model(&path);
}

fn config(_: &Path, input: &[u8]) {
    let Ok(config) = Architecture::from_json_str(&String::from_utf8_lossy(input)) else { return };
    assert!(architecture::parameters(&config).iter().map(Parameter::count).sum::<u64>() > 0);
    let _ = config.supported();
    config.ropes.iter().for_each(|rope| drop(rope.inverse_frequencies(1 << 20)));
}

fn adapter(folder: &Path) {
    let Ok((config, tensors)) = peft::load_adapter(folder) else { return };
    let model = seeds::model_config();
    if let Ok(placement) = Placement::from_peft("adapter", &config, &model) {
        let _ = AdapterLayout::new(&placement).pack("adapter", &tensors);
    }
}

fn adapter_config(scratch: &Path, input: &[u8]) {
    fs::write(scratch.join("adapter_model.safetensors"), &seeds::adapter_tensors()[0]).unwrap();
    fs::write(scratch.join("adapter_config.json"), input).unwrap();
    adapter(scratch);
}

fn adapter_tensors(scratch: &Path, input: &[u8]) {
    fs::write(scratch.join("adapter_config.json"), seeds::adapter_config_json().to_string()).unwrap();
    fs::write(scratch.join("adapter_model.safetensors"), input).unwrap();
    adapter(scratch);
}

fn tokenizer(scratch: &Path, input: &[u8]) {
    let path = scratch.join("tokenizer.json");
    fs::write(&path, input).unwrap();
    let source = TextSource {
        bos_token: Some("<s>".to_string()),
        eos_token: Some("</s>".to_string()),
        add_bos: Some(true),
        ..TextSource::of(TokenizerSource::Json(path))
    };
    if let Ok(tokenizer) = Tokenizer::from_source(&source) {
        encode(&tokenizer);
    }
}

fn tokenizer_config(scratch: &Path, input: &[u8]) {
    let folder = in_model_folder(scratch, "tokenizer_config.json", input);
    if let Ok(source) = graftling::formats::hugging_face::text(&folder, &seeds::model_config()) {
        text(&source);
    }
}

fn chat_template(_: &Path, input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(template) = ChatTemplate::compile_at("test", &text, Some("<s>".into()), None, 1_709_164_800) {
        render(&template);
    }
}

fn data(scratch: &Path, input: &[u8]) {
    static TEXT: OnceLock<(Tokenizer, ChatTemplate)> = OnceLock::new();
    let (tokenizer, template) = TEXT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        fs::write(&path, &seeds::gguf()[1]).unwrap();
        let source = ModelFiles::open(path.to_str().unwrap()).unwrap().text;
        (Tokenizer::from_source(&source).unwrap(), ChatTemplate::from_source(&source).unwrap().unwrap())
    });
    let path = scratch.join("data.jsonl");
    fs::write(&path, input).unwrap();
    if let Ok(dataset) = data::load(&path, tokenizer, Some(template), 16) {
        let _ = (dataset.check_vocabulary(8), dataset.report.to_string(), data::preview(&dataset, tokenizer, 3, true));
    }
}

fn recipe(_: &Path, input: &[u8]) {
    if let Ok(recipe) = Recipe::from_toml(&String::from_utf8_lossy(input), Path::new("recipe.toml")) {
        let layers = recipe.layers.clone();
        let _ = recipe.resolve();
        let _ = layers.map(|layers| graftling::adapter::targets::parse_layers(&layers, 30));
    }
}

/// A checkpoint folder with this file in it, beside the sound ones.
fn checkpoint(scratch: &Path, name: &str, input: &[u8]) {
    let folder = scratch.join("checkpoint-4");
    if !folder.is_dir() {
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("adapter_config.json"), seeds::adapter_config_json().to_string()).unwrap();
        fs::write(folder.join("adapter_model.safetensors"), &seeds::adapter_tensors()[0]).unwrap();
        fs::write(folder.join("optimizer.safetensors"), &seeds::optimizer_state()[0]).unwrap();
        fs::write(folder.join("state.json"), &seeds::run_state()[0]).unwrap();
    }
    fs::write(folder.join(name), input).unwrap();
    let (config, _) = peft::load_adapter(&folder).unwrap();
    let model = seeds::model_config();
    let layout = AdapterLayout::new(&Placement::from_peft("adapter", &config, &model).unwrap());
    // As if it had been written so: otherwise the digests would keep everything from being looked at.
    sums::write(&folder, &FILES).unwrap();
    if let Ok(Some((_, state))) = latest(scratch) {
        let _ = state.check_same_run(&folder, &Default::default());
        let _ = Checkpoint::load(&folder, state, &layout);
    }
    let _ = Checkpoint::load(&folder, RunState::start(Default::default()), &layout);
}

fn run_state(scratch: &Path, input: &[u8]) {
    checkpoint(scratch, "state.json", input);
}

fn optimizer_state(scratch: &Path, input: &[u8]) {
    checkpoint(scratch, "optimizer.safetensors", input);
}

fn metrics(scratch: &Path, input: &[u8]) {
    fs::write(scratch.join(METRICS_FILE), input).unwrap();
    let _ = MetricsLog::open(scratch, 1000).map(|log| log.history().len());
}
