//! Qwen 3: Llama with norms of query and key, each head by itself, and heads of a size of their own.

use serde_json::json;

use super::qwen2::{DEFAULTS, say_windows, upper_windows};
use super::{Defaults, Family, QueryKeyNorm};

pub(super) static FAMILY: Family = Family {
    class: "Qwen3ForCausalLM",
    model_type: "qwen3",
    ggml: "qwen3",
    models: "Qwen 3",
    keys: &["attention_bias", "use_sliding_window", "sliding_window", "max_window_layers", "layer_types"],
    defaults: Defaults { head_dim: Some(128), ..DEFAULTS },
    experts: None,
    from_json: |keys, model| {
        keys.expect_activation("hidden_act", &["silu"])?;
        model.query_key_value_bias = keys.is_on("attention_bias")?;
        model.attention_output_bias = model.query_key_value_bias;
        model.query_key_norm = QueryKeyNorm::Head;
        upper_windows(keys, model)?;
        keys.rotate_whole_heads(model)
    },
    from_gguf: |_, model| {
        model.query_key_norm = QueryKeyNorm::Head;
        Ok(())
    },
    to_gguf: |_, _| {},
    to_json: |model, map| {
        map.insert("attention_bias".to_owned(), json!(model.query_key_value_bias));
        say_windows(model, map);
    },
    interleaved: false,
    ggml_norms: super::GGML_NORMS,
};
