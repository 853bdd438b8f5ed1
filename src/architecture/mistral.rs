//! Mistral: Llama with a sliding window in every layer. Its GGUF files are of architecture `llama` and have lost the window.

use serde_json::json;

use super::{Defaults, Family};

pub(super) static FAMILY: Family = Family {
    class: "MistralForCausalLM",
    model_type: "mistral",
    ggml: "",
    models: "Mistral 7B, Nemo",
    keys: &["sliding_window"],
    defaults: Defaults { num_key_value_heads: Some(8), max_position_embeddings: 4096 * 32, ..Defaults::LLAMA },
    experts: None,
    from_json: |keys, model| {
        keys.expect_activation("hidden_act", &["silu"])?;
        let window = keys.size_unless_null("sliding_window", 4096)?;
        model.layers.iter_mut().for_each(|layer| layer.window = window);
        keys.rotate_whole_heads(model)
    },
    from_gguf: |_, _| Ok(()),
    to_gguf: |_, _| {},
    to_json: |model, map| {
        map.insert("sliding_window".to_owned(), json!(model.windows().first()));
    },
    interleaved: true,
    ggml_norms: super::GGML_NORMS,
};
