//! A writer of GGUF files for tests, independent of the reader.

use super::tiny;

/// A file in parts, so that a test can change one of them.
pub struct GgufFile {
    pub version: u32,
    /// Key, value type, value.
    pub pairs: Vec<(String, u32, Vec<u8>)>,
    /// ggml's name, dimensions in ggml's order, type, data.
    pub tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

pub const U32: u32 = 4;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;

pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

pub fn strings(texts: &[&str]) -> Vec<u8> {
    let mut bytes = [&STRING.to_le_bytes()[..], &(texts.len() as u64).to_le_bytes()].concat();
    texts.iter().for_each(|text| bytes.extend(string(text)));
    bytes
}

impl GgufFile {
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.pairs {
            out.extend(string(key));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        let mut data = Vec::new();
        for (name, dimensions, kind, bytes) in &self.tensors {
            out.extend(string(name));
            out.extend((dimensions.len() as u32).to_le_bytes());
            dimensions.iter().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }

    pub fn set(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        self.pairs.retain(|pair| pair.0 != key);
        self.pairs.push((key.to_owned(), kind, value));
    }

    pub fn remove(&mut self, name: &str) {
        self.tensors.retain(|tensor| tensor.0 != name);
    }

    pub fn tensor(&mut self, name: &str) -> &mut (String, Vec<u64>, u32, Vec<u8>) {
        self.tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap()
    }

    /// The tiny model in f32, its query and key rows permuted as `convert_hf_to_gguf.py` does.
    pub fn tiny() -> Self {
        let number = |value: u32| (U32, value.to_le_bytes().to_vec());
        let real = |value: f32| (F32, value.to_le_bytes().to_vec());
        let tokens: Vec<String> = (0..40).map(|id| format!("t{id}")).collect();
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        let pairs = [
            ("general.architecture", (STRING, string("llama"))),
            ("general.name", (STRING, string("Tiny"))),
            ("llama.block_count", number(2)),
            ("llama.context_length", number(128)),
            ("llama.embedding_length", number(64)),
            ("llama.feed_forward_length", number(96)),
            ("llama.attention.head_count", number(4)),
            ("llama.attention.head_count_kv", number(2)),
            ("llama.attention.layer_norm_rms_epsilon", real(1e-5)),
            ("llama.rope.freq_base", real(10000.0)),
            ("tokenizer.ggml.model", (STRING, string("gpt2"))),
            ("tokenizer.ggml.pre", (STRING, string("smollm"))),
            ("tokenizer.ggml.tokens", (ARRAY, strings(&tokens))),
            ("tokenizer.ggml.merges", (ARRAY, strings(&["t 0", "t 1"]))),
            ("tokenizer.ggml.bos_token_id", number(1)),
            ("tokenizer.ggml.eos_token_id", number(2)),
            ("tokenizer.ggml.eot_token_id", number(3)),
            ("tokenizer.ggml.add_bos_token", (BOOL, vec![0])),
            ("tokenizer.chat_template", (STRING, string("{{ messages[0].content }}"))),
        ];
        let pairs = pairs.into_iter().map(|(key, (kind, value))| (key.to_owned(), kind, value)).collect();
        let mut tensors = Vec::new();
        for (name, shape, values) in tiny::tensors() {
            let rotated = name.contains("q_proj") || name.contains("k_proj");
            let values = if rotated { permuted(&values, shape[0], shape[1], 16) } else { values };
            let dimensions = shape.iter().rev().map(|&size| size as u64).collect();
            tensors.push((ggml_name(&name), dimensions, 0, tiny::f32_bytes(&values)));
        }
        Self { version: 3, pairs, tensors }
    }
}

/// `weights.reshape(heads, 2, head_dim / 2, in).swapaxes(1, 2).reshape(out, in)`
pub fn permuted(values: &[f32], rows: usize, columns: usize, head_dim: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for head in 0..rows / head_dim {
        for pair in 0..head_dim / 2 {
            for half in 0..2 {
                let row = head * head_dim + half * (head_dim / 2) + pair;
                out.extend_from_slice(&values[row * columns..(row + 1) * columns]);
            }
        }
    }
    out
}

pub fn ggml_name(name: &str) -> String {
    let name = name.replace("model.embed_tokens", "token_embd").replace("model.norm", "output_norm").replace("lm_head", "output");
    let name = name
        .replace("model.layers.", "blk.")
        .replace("post_attention_layernorm", "ffn_norm")
        .replace("input_layernorm", "attn_norm");
    let name = name.replace("self_attn.o_proj", "attn_output").replace("self_attn.", "attn_").replace("mlp.", "ffn_");
    name.replace("_proj", "")
}
