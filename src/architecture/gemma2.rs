//! Gemma 2: norms before and after, by 1 + weight; GeGLU; scaled embeddings; soft caps; a sliding window in every other layer.

use serde_json::{Map, json};

use super::gguf::Value;
use super::json::Keys;
use super::{Activation, Architecture, Defaults, Family, Norms};
use crate::Result;

pub(super) static FAMILY: Family = Family {
    class: "Gemma2ForCausalLM",
    model_type: "gemma2",
    ggml: "gemma2",
    models: "Gemma 2",
    keys: &KEYS,
    defaults: DEFAULTS,
    experts: None,
    from_json: |keys, model| {
        features(model);
        json_features(keys, model)?;
        model.attention_softcap = keys.number_unless_null("attn_logit_softcapping", Some(50.0))?;
        model.final_softcap = keys.number_unless_null("final_logit_softcapping", Some(30.0))?;
        windows(keys, model, |layer| layer % 2 == 0)?;
        keys.rotate_whole_heads(model)
    },
    from_gguf: |keys, model| {
        features(model);
        // What the file does not say: the largest model has another scale, which its depth gives away.
        if model.num_hidden_layers == 46 {
            model.attention_scale = ((model.hidden_size / model.num_attention_heads) as f64).powf(-0.5);
        }
        model.attention_softcap = Some(keys.number("attn_logit_softcapping")?.unwrap_or(50.0));
        model.final_softcap = Some(keys.number("final_logit_softcapping")?.unwrap_or(30.0));
        let window = keys.size("attention.sliding_window")?.unwrap_or(4096);
        model.layers.iter_mut().step_by(2).for_each(|layer| layer.window = Some(window));
        Ok(())
    },
    to_gguf: |model, said| {
        for (key, cap) in [("attn_logit_softcapping", model.attention_softcap), ("final_logit_softcapping", model.final_softcap)]
        {
            // A file that does not say it means the usual one.
            said.say(key, Value::Number(cap.unwrap_or(0.0)));
        }
        said.say("attention.sliding_window", Value::Size(model.windows().first().copied().unwrap_or(0)));
    },
    to_json: say,
    interleaved: false,
    ggml_norms: super::GGML_NORMS,
};

pub(super) const DEFAULTS: Defaults = Defaults {
    head_dim: Some(256),
    num_key_value_heads: Some(4),
    max_position_embeddings: 8192,
    tie_word_embeddings: true,
    ..Defaults::LLAMA
};

pub(super) const KEYS: [&str; 8] = [
    "hidden_activation",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "sliding_window",
    "layer_types",
    "attention_bias",
    "use_bidirectional_attention",
];

/// What all models of the Gemma families from 2 on have.
pub(super) fn features(model: &mut Architecture) {
    model.norms = Norms::Both;
    model.norm_adds_one = true;
    model.activation = Activation::GeluTanh;
    model.embedding_multiplier = (model.hidden_size as f64).sqrt();
}

/// What their configs say beside soft caps, windows and rotations.
pub(super) fn json_features(keys: &Keys, model: &mut Architecture) -> Result<()> {
    keys.expect_activation("hidden_activation", &["gelu_pytorch_tanh", "gelu_fast", "gelu_new"])?;
    if keys.is_on("use_bidirectional_attention")? {
        return Err(keys.bad("use_bidirectional_attention", "is on, but graftling trains causal models only"));
    }
    model.query_key_value_bias = keys.is_on("attention_bias")?;
    model.attention_output_bias = model.query_key_value_bias;
    model.attention_scale = keys.number_or("query_pre_attn_scalar", 256.0)?.powf(-0.5);
    Ok(())
}

/// What a config of these families says.
pub(super) fn say(model: &Architecture, map: &mut Map<String, serde_json::Value>) {
    map.remove("hidden_act");
    for (key, value) in [
        ("hidden_activation", json!("gelu_pytorch_tanh")),
        ("query_pre_attn_scalar", pre_attention_scalar(model.attention_scale)),
        ("attn_logit_softcapping", json!(model.attention_softcap)),
        ("final_logit_softcapping", json!(model.final_softcap)),
        ("attention_bias", json!(model.query_key_value_bias)),
        ("sliding_window", json!(model.windows().first())),
        ("layer_types", model.layer_types()),
    ] {
        map.insert(key.to_owned(), value);
    }
}

/// The number of whose root the scale is the reciprocal. The power comes back a little beside a whole number, and transformers takes no other.
fn pre_attention_scalar(scale: f64) -> serde_json::Value {
    let scalar = scale.powi(-2);
    let whole = scalar.round();
    if (scalar - whole).abs() <= 1e-9 * whole { json!(whole as u64) } else { json!(scalar) }
}

/// Windows in the layers that `layer_types` names, else in those that `slides` does.
pub(super) fn windows(keys: &Keys, model: &mut Architecture, slides: impl Fn(usize) -> bool) -> Result<()> {
    let sliding = keys.sliding_layers(model.num_hidden_layers)?;
    let window = keys.size_unless_null("sliding_window", 4096)?;
    for (index, layer) in model.layers.iter_mut().enumerate() {
        let slides = sliding.as_ref().map_or_else(|| slides(index), |sliding| sliding[index]);
        layer.window = window.filter(|_| slides);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gemma's own numbers, and one that is none.
    #[test]
    fn whole_numbers_are_written_as_they_were_read() {
        for whole in [8, 16, 144, 168, 224, 256] {
            assert_eq!(pre_attention_scalar(f64::from(whole).powf(-0.5)), json!(whole));
        }
        assert_eq!(pre_attention_scalar(0.4), json!(0.4f64.powi(-2)));
    }
}
