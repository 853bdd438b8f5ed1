//! Qwen 1.5 and 2 with experts, beside one that every token is sent to, behind a gate.

use serde_json::json;

use super::experts::{ExpertNames, Experts, QWEN_KEYS, Usual};
use super::qwen2::{DEFAULTS, say_windows, upper_windows};
use super::{Defaults, Family};

pub(super) static FAMILY: Family = Family {
    class: "Qwen2MoeForCausalLM",
    model_type: "qwen2_moe",
    ggml: "qwen2moe",
    models: "Qwen 1.5 and 2 with experts (A2.7B, 57B-A14B)",
    keys: &QWEN_KEYS,
    defaults: Defaults { num_key_value_heads: Some(16), ..DEFAULTS },
    experts: Some(ExpertNames::USUAL),
    from_json: |keys, model| {
        keys.expect_activation("hidden_act", &["silu"])?;
        model.query_key_value_bias = keys.flag("qkv_bias")?.unwrap_or(true);
        upper_windows(keys, model)?;
        let usual = Usual { count: 60, per_token: 4, intermediate_size: 1408, shared_intermediate_size: Some(5632) };
        model.experts = Some(Experts::of_qwen(keys, model.num_hidden_layers, &usual)?);
        keys.rotate_whole_heads(model)
    },
    from_gguf: |keys, model| {
        model.experts = Some(Experts::from_gguf(keys, model, false, true)?);
        Ok(())
    },
    to_gguf: Experts::to_gguf,
    to_json: |model, map| {
        map.insert("qkv_bias".to_owned(), json!(model.query_key_value_bias));
        say_windows(model, map);
        Experts::say_qwen(model, map);
    },
    interleaved: false,
    ggml_norms: super::GGML_NORMS,
};
