//! A Llama model of a few kilobytes, in all formats.

use std::{collections::BTreeMap, ops::Range, path::Path, sync::Mutex};

use graftling::architecture::{self, Architecture};
use graftling::storage::{TensorInfo, TensorSource};
use serde_json::{Value, json};

/// `config.json` of the tiny model: 2 layers, 4 heads of 16 features, 2 of them for keys and values.
pub fn config_json() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": 40, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "max_position_embeddings": 128, "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": [2, 3],
    })
}

pub fn config() -> Architecture {
    Architecture::from_json_str(&config_json().to_string()).unwrap()
}

/// Numbers that f16 and bf16 hold exactly: sixteenths from -4 to 4.
pub fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 33) % 129) as f32 / 16.0 - 4.0
    };
    (0..count).map(|_| next()).collect()
}

/// All tensors of the tiny model: name, shape, values.
pub fn tensors() -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let with_values = |(index, parameter): (usize, architecture::Parameter)| {
        let values = values(index as u64 + 1, parameter.count() as usize);
        (parameter.name, parameter.shape, values)
    };
    architecture::parameters(&config()).into_iter().enumerate().map(with_values).collect()
}

pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub fn f16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect()
}

pub fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&value| half::bf16::from_f32(value).to_le_bytes()).collect()
}

/// A safetensors file of `(name, dtype, shape, bytes)`.
pub fn safetensors(tensors: &[(String, &str, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let mut header = BTreeMap::from([("__metadata__".to_owned(), json!({"format": "pt"}))]);
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let begin = data.len();
        data.extend_from_slice(bytes);
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()]}));
    }
    let header = serde_json::to_string(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

/// All tensors of the tiny model as one safetensors file in f32.
pub fn weights() -> Vec<u8> {
    let all: Vec<_> = tensors().into_iter().map(|(name, shape, values)| (name, "F32", shape, f32_bytes(&values))).collect();
    safetensors(&all)
}

/// Writes the tiny model as a Hugging Face folder without a tokenizer.
pub fn write_folder(folder: &Path) {
    std::fs::write(folder.join("config.json"), config_json().to_string()).unwrap();
    std::fs::write(folder.join("model.safetensors"), weights()).unwrap();
}

/// Another source, which tells what rows of it were read.
pub struct Told<'s> {
    inner: &'s dyn TensorSource,
    read: Mutex<Vec<(String, Range<usize>)>>,
}

impl<'s> Told<'s> {
    pub fn of(inner: &'s dyn TensorSource) -> Self {
        Self { inner, read: Mutex::default() }
    }

    /// Since it was asked last.
    pub fn read(&self) -> Vec<(String, Range<usize>)> {
        std::mem::take(&mut self.read.lock().unwrap())
    }
}

impl TensorSource for Told<'_> {
    fn tensors(&self) -> &[TensorInfo] {
        self.inner.tensors()
    }

    fn unreadable(&self) -> &[(String, String)] {
        self.inner.unreadable()
    }

    fn place(&self, name: &str) -> String {
        self.inner.place(name)
    }

    fn read_rows(&self, name: &str, rows: Range<usize>) -> graftling::Result<Vec<u8>> {
        self.read.lock().unwrap().push((name.to_owned(), rows.clone()));
        self.inner.read_rows(name, rows)
    }
}
