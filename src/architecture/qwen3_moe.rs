//! Qwen 3 with experts in the layers that the config names.

use serde_json::json;

use super::experts::{ExpertNames, Experts, QWEN_KEYS, Usual};
use super::qwen2::DEFAULTS;
use super::{Defaults, Family, QueryKeyNorm};

pub(super) static FAMILY: Family = Family {
    class: "Qwen3MoeForCausalLM",
    model_type: "qwen3_moe",
    ggml: "qwen3moe",
    models: "Qwen 3 with experts (30B-A3B, 235B-A22B)",
    keys: &QWEN_KEYS,
    defaults: Defaults { num_key_value_heads: Some(4), ..DEFAULTS },
    experts: Some(ExpertNames::USUAL),
    from_json: |keys, model| {
        keys.expect_activation("hidden_act", &["silu"])?;
        model.query_key_value_bias = keys.is_on("attention_bias")?;
        model.attention_output_bias = model.query_key_value_bias;
        model.query_key_norm = QueryKeyNorm::Head;
        let window = if keys.is_on("use_sliding_window")? { keys.size_unless_null("sliding_window", 4096)? } else { None };
        model.layers.iter_mut().for_each(|layer| layer.window = window);
        let usual = Usual { count: 128, per_token: 8, intermediate_size: 768, shared_intermediate_size: None };
        model.experts = Some(Experts::of_qwen(keys, model.num_hidden_layers, &usual)?);
        keys.rotate_whole_heads(model)
    },
    from_gguf: |keys, model| {
        model.query_key_norm = QueryKeyNorm::Head;
        model.experts = Some(Experts::from_gguf(keys, model, true, false)?);
        Ok(())
    },
    to_gguf: Experts::to_gguf,
    to_json: |model, map| {
        map.insert("attention_bias".to_owned(), json!(model.query_key_value_bias));
        map.insert("use_sliding_window".to_owned(), json!(!model.windows().is_empty()));
        map.insert("sliding_window".to_owned(), json!(model.windows().first()));
        Experts::say_qwen(model, map);
    },
    interleaved: false,
    ggml_norms: super::GGML_NORMS,
};
