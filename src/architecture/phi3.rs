//! Phi-3, Phi-3.5 and Phi-4-mini: Llama with query, key and value in one matrix and gate and up in another, LongRoPE, and heads that are
//! rotated in part.

use serde_json::json;

use super::gguf::Value;
use super::{Defaults, Family};

pub(super) static FAMILY: Family = Family {
    class: "Phi3ForCausalLM",
    model_type: "phi3",
    ggml: "phi3",
    models: "Phi-3, 3.5, 4-mini",
    keys: &["sliding_window"],
    defaults: Defaults {
        rms_norm_eps: 1e-5,
        max_position_embeddings: 4096,
        original_max_position_embeddings: Some(4096),
        ..Defaults::LLAMA
    },
    experts: None,
    from_json: |keys, model| {
        keys.expect_activation("hidden_act", &["silu"])?;
        model.fused = true;
        let window = keys.optional_size("sliding_window")?;
        model.layers.iter_mut().for_each(|layer| layer.window = window);
        model.ropes = vec![keys.rope(model)?];
        Ok(())
    },
    from_gguf: |keys, model| {
        model.fused = true;
        // 0 stands for none.
        let window = keys.size("attention.sliding_window")?.filter(|&window| window > 0);
        model.layers.iter_mut().for_each(|layer| layer.window = window);
        Ok(())
    },
    to_gguf: |model, said| said.say("attention.sliding_window", Value::Size(model.layers[0].window.unwrap_or(0))),
    to_json: |model, map| {
        map.insert("sliding_window".to_owned(), json!(model.windows().first()));
    },
    interleaved: false,
    ggml_norms: super::GGML_NORMS,
};
