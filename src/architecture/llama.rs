//! Llama: norms before attention and MLP, SwiGLU, grouped heads; biases where a config says so. SmolLM2, TinyLlama and many others are of it.

use serde_json::json;

use super::{Defaults, Family};

pub(super) static FAMILY: Family = Family {
    class: "LlamaForCausalLM",
    model_type: "llama",
    ggml: "llama",
    models: "Llama 2, 3, 3.1, 3.2, SmolLM2, TinyLlama",
    keys: &["attention_bias", "mlp_bias"],
    defaults: Defaults::LLAMA,
    experts: None,
    from_json: |keys, model| {
        keys.expect_activation("hidden_act", &["silu"])?;
        model.query_key_value_bias = keys.is_on("attention_bias")?;
        model.attention_output_bias = model.query_key_value_bias;
        model.mlp_bias = keys.is_on("mlp_bias")?;
        keys.rotate_whole_heads(model)
    },
    from_gguf: |_, _| Ok(()),
    to_gguf: |_, _| {},
    to_json: |model, map| {
        map.insert("attention_bias".to_owned(), json!(model.query_key_value_bias));
        map.insert("mlp_bias".to_owned(), json!(model.mlp_bias));
    },
    interleaved: true,
    ggml_norms: super::GGML_NORMS,
};
