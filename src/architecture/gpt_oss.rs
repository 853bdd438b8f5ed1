//! gpt-oss: experts in every layer, with biases everywhere, gate and up in one parameter and a SwiGLU with bounds; sinks in attention; a
//! sliding window in every other layer; YaRN whose ramp has no whole ends.

use serde_json::json;

use super::experts::{ExpertNames, Experts};
use super::gguf::Value;
use super::{Activation, Architecture, Defaults, Family, GGML_NORMS, Rope, RopeScaling};

pub(super) static FAMILY: Family = Family {
    class: "GptOssForCausalLM",
    model_type: "gpt_oss",
    ggml: "gpt-oss",
    models: "gpt-oss (20b, 120b)",
    // The last two are other names of what has been said, which transformers passes over.
    keys: &[
        "sliding_window",
        "layer_types",
        "attention_bias",
        "num_local_experts",
        "num_experts_per_tok",
        "swiglu_limit",
        "swiglu_alpha",
        "router_aux_loss_coef",
        "initial_context_length",
        "experts_per_token",
    ],
    defaults: Defaults {
        vocab_size: Some(201_088),
        num_attention_heads: Some(64),
        head_dim: Some(64),
        num_key_value_heads: Some(8),
        rms_norm_eps: 1e-5,
        rope_theta: 150_000.0,
        max_position_embeddings: 131_072,
        ..Defaults::LLAMA
    },
    experts: Some(ExpertNames { router: "router", together: true, ..ExpertNames::USUAL }),
    from_json: |keys, model| {
        keys.expect_activation("hidden_act", &["silu"])?;
        let number = |key, usual| keys.number_or(key, usual);
        features(model, number("swiglu_limit", LIMIT)?, number("swiglu_alpha", ALPHA)?);
        model.query_key_value_bias = keys.flag("attention_bias")?.unwrap_or(true);
        model.attention_output_bias = model.query_key_value_bias;
        let sliding = keys.sliding_layers(model.num_hidden_layers)?;
        let window = keys.size_unless_null("sliding_window", 128)?;
        for (index, layer) in model.layers.iter_mut().enumerate() {
            layer.window = window.filter(|_| sliding.as_ref().map_or(index % 2 == 0, |sliding| sliding[index]));
        }
        model.experts = Some(Experts::local(keys, model, [128, 4])?);
        keys.rotate_whole_heads(model)?;
        let says_nothing = |key: &str| keys.get(key).is_none_or(|value| value.as_object().is_some_and(|map| map.is_empty()));
        if ["rope_scaling", "rope_parameters"].into_iter().all(says_nothing) {
            model.ropes[0].scaling = usual_scaling();
        }
        Ok(())
    },
    from_gguf: |keys, model| {
        // What the file does not say: it has numbers for neither the bounds nor the ends of YaRN's ramp.
        features(model, LIMIT, ALPHA);
        for rope in &mut model.ropes {
            if let RopeScaling::Yarn { truncate, .. } = &mut rope.scaling {
                *truncate = false;
            }
        }
        let key = "attention.sliding_window";
        let window = keys.size(key)?.ok_or_else(|| keys.bad(key, "is missing"))?;
        model.layers.iter_mut().step_by(2).for_each(|layer| layer.window = Some(window));
        model.experts = Some(Experts::from_gguf(keys, model, true, false)?);
        Ok(())
    },
    to_gguf: |model, said| {
        said.say("attention.sliding_window", Value::Size(model.windows().first().copied().unwrap_or(0)));
        Experts::to_gguf(model, said);
    },
    to_json: |model, map| {
        for (key, value) in [
            ("attention_bias", json!(model.query_key_value_bias)),
            ("sliding_window", json!(model.windows().first())),
            ("layer_types", model.layer_types()),
        ] {
            map.insert(key.to_owned(), value);
        }
        if let Activation::ClampedSilu { limit, alpha } = model.activation {
            map.insert("swiglu_limit".to_owned(), json!(limit));
            map.insert("swiglu_alpha".to_owned(), json!(alpha));
        }
        Experts::say_local(model, map);
        // Nothing would mean YaRN.
        if let Some(Rope { theta, scaling: RopeScaling::None, .. }) = model.ropes.first() {
            map.insert("rope_parameters".to_owned(), json!({ "rope_type": "default", "rope_theta": theta }));
        }
    },
    interleaved: false,
    ggml_norms: [GGML_NORMS[0], GGML_NORMS[1], "post_attention_norm", GGML_NORMS[3]],
};

const LIMIT: f64 = 7.0;
const ALPHA: f64 = 1.702;

/// What all models of the family have.
fn features(model: &mut Architecture, limit: f64, alpha: f64) {
    model.attention_sinks = true;
    model.mlp_bias = true;
    model.activation = Activation::ClampedSilu { limit, alpha };
}

/// What transformers takes where a config says nothing of the rotation.
fn usual_scaling() -> RopeScaling {
    let factor = 32.0;
    RopeScaling::Yarn {
        factor,
        attention_factor: super::rope::yarn_attention_factor(factor, 1.0),
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: false,
        original_max_position_embeddings: 4096,
    }
}
