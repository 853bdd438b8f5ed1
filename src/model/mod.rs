//! Models: the numbers that define one, its parameters, and its graph.

pub mod anatomy;
pub mod config;
pub mod known;
pub mod llama;
pub mod opened;
mod packing;
pub mod weights;

use config::ModelConfig;

/// Hugging Face names of all tensors that a Llama model of this configuration has.
pub fn tensor_names(config: &ModelConfig) -> Vec<String> {
    let mut names = vec!["model.embed_tokens.weight".to_owned()];
    for layer in 0..config.num_hidden_layers {
        names.extend(["input_layernorm", "post_attention_layernorm"].map(|norm| format!("model.layers.{layer}.{norm}.weight")));
        names.extend(crate::adapter::block_linears(config).map(|(path, _)| format!("model.layers.{layer}.{path}.weight")));
    }
    names.push("model.norm.weight".to_owned());
    if !config.tie_word_embeddings {
        names.push("lm_head.weight".to_owned());
    }
    names
}
