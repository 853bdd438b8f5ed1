//! Qwen 2 and 2.5: Llama with biases of query, key and value, and a sliding window in the upper layers where the config says so.

use serde_json::{Map, Value, json};

use super::json::Keys;
use super::{Architecture, Defaults, Family};
use crate::Result;

pub(super) static FAMILY: Family = Family {
    class: "Qwen2ForCausalLM",
    model_type: "qwen2",
    ggml: "qwen2",
    models: "Qwen 2, 2.5",
    keys: &WINDOW_KEYS,
    defaults: DEFAULTS,
    experts: None,
    from_json: |keys, model| {
        keys.expect_activation("hidden_act", &["silu"])?;
        model.query_key_value_bias = true;
        upper_windows(keys, model)?;
        keys.rotate_whole_heads(model)
    },
    from_gguf: |_, _| Ok(()),
    to_gguf: |_, _| {},
    to_json: say_windows,
    interleaved: false,
    ggml_norms: super::GGML_NORMS,
};

pub(super) const WINDOW_KEYS: [&str; 4] = ["use_sliding_window", "sliding_window", "max_window_layers", "layer_types"];

pub(super) const DEFAULTS: Defaults =
    Defaults { num_key_value_heads: Some(32), max_position_embeddings: 32768, ..Defaults::LLAMA };

/// The windows of Qwen: in the layers that `layer_types` names, else in those from `max_window_layers` on, if they are in use at all.
pub(super) fn upper_windows(keys: &Keys, model: &mut Architecture) -> Result<()> {
    let sliding = keys.sliding_layers(model.num_hidden_layers)?;
    let first = keys.optional_size("max_window_layers")?.unwrap_or(28);
    let window = if keys.is_on("use_sliding_window")? { keys.size_unless_null("sliding_window", 4096)? } else { None };
    for (index, layer) in model.layers.iter_mut().enumerate() {
        let slides = sliding.as_ref().map_or(index >= first, |sliding| sliding[index]);
        layer.window = window.filter(|_| slides);
    }
    Ok(())
}

/// Their inverse.
pub(super) fn say_windows(model: &Architecture, map: &mut Map<String, Value>) {
    let window = model.windows().first().copied();
    map.insert("use_sliding_window".to_owned(), json!(window.is_some()));
    if window.is_some() {
        map.insert("sliding_window".to_owned(), json!(window));
        map.insert("layer_types".to_owned(), model.layer_types());
    }
}
