//! Granite: Llama with four multipliers: of embeddings, of both halves of a layer, of the products of query and key, and of logits.

use serde_json::json;

use super::gguf::Value;
use super::{Defaults, Family};

pub(super) static FAMILY: Family = Family {
    class: "GraniteForCausalLM",
    model_type: "granite",
    ggml: "granite",
    models: "Granite 3",
    keys: &[
        "attention_bias",
        "mlp_bias",
        "attention_multiplier",
        "embedding_multiplier",
        "residual_multiplier",
        "logits_scaling",
    ],
    defaults: Defaults::LLAMA,
    experts: None,
    from_json: |keys, model| {
        keys.expect_activation("hidden_act", &["silu"])?;
        model.query_key_value_bias = keys.is_on("attention_bias")?;
        model.attention_output_bias = model.query_key_value_bias;
        model.mlp_bias = keys.is_on("mlp_bias")?;
        model.attention_scale = keys.number_or("attention_multiplier", 1.0)?;
        model.embedding_multiplier = keys.number_or("embedding_multiplier", 1.0)?;
        model.residual_multiplier = keys.number_or("residual_multiplier", 1.0)?;
        model.logits_scaling = keys.number_or("logits_scaling", 1.0)?;
        keys.rotate_whole_heads(model)
    },
    from_gguf: |keys, model| {
        // 0 stands for what is not said.
        let said = |name: &str| keys.number(name).map(|number| number.filter(|&number| number != 0.0));
        model.attention_scale = said("attention.scale")?.unwrap_or(model.attention_scale);
        model.embedding_multiplier = said("embedding_scale")?.unwrap_or(1.0);
        model.residual_multiplier = said("residual_scale")?.unwrap_or(1.0);
        model.logits_scaling = said("logit_scale")?.unwrap_or(1.0);
        Ok(())
    },
    to_gguf: |model, said| {
        for (key, value) in [
            ("attention.scale", model.attention_scale),
            ("embedding_scale", model.embedding_multiplier),
            ("residual_scale", model.residual_multiplier),
            ("logit_scale", model.logits_scaling),
        ] {
            said.say(key, Value::Number(value));
        }
    },
    to_json: |model, map| {
        for (key, value) in [
            ("attention_multiplier", json!(model.attention_scale)),
            ("embedding_multiplier", json!(model.embedding_multiplier)),
            ("residual_multiplier", json!(model.residual_multiplier)),
            ("logits_scaling", json!(model.logits_scaling)),
            ("attention_bias", json!(model.query_key_value_bias)),
            ("mlp_bias", json!(model.mlp_bias)),
        ] {
            map.insert(key.to_owned(), value);
        }
    },
    interleaved: true,
    ggml_norms: super::GGML_NORMS,
};
