//! SmolLM3: Llama in which every fourth layer rotates nothing.

use serde_json::{Value, json};

use super::qwen2::say_windows;
use super::{Defaults, Family};

pub(super) static FAMILY: Family = Family {
    class: "SmolLM3ForCausalLM",
    model_type: "smollm3",
    ggml: "smollm3",
    models: "SmolLM3",
    keys: &[
        "attention_bias",
        "mlp_bias",
        "no_rope_layers",
        "no_rope_layer_interval",
        "use_sliding_window",
        "sliding_window",
        "layer_types",
        "max_window_layers",
    ],
    defaults: Defaults {
        num_key_value_heads: Some(4),
        rope_theta: 2_000_000.0,
        max_position_embeddings: 32768,
        tie_word_embeddings: true,
        ..Defaults::LLAMA
    },
    experts: None,
    from_json: |keys, model| {
        keys.expect_activation("hidden_act", &["silu"])?;
        model.query_key_value_bias = keys.is_on("attention_bias")?;
        model.attention_output_bias = model.query_key_value_bias;
        model.mlp_bias = keys.is_on("mlp_bias")?;
        let layers = model.num_hidden_layers;
        let rotates: Vec<bool> = match keys.get("no_rope_layers") {
            None => {
                let interval = keys.optional_size("no_rope_layer_interval")?.unwrap_or(INTERVAL);
                if interval == 0 {
                    return Err(keys.bad("no_rope_layer_interval", "is 0"));
                }
                (1..=layers).map(|number| !number.is_multiple_of(interval)).collect()
            }
            // 1 stands for a layer that rotates.
            Some(Value::Array(flags))
                if flags.len() >= layers && flags.iter().all(|flag| flag.as_u64().is_some_and(|f| f < 2)) =>
            {
                flags.iter().take(layers).map(|flag| flag.as_u64() == Some(1)).collect()
            }
            Some(_) => return Err(keys.bad("no_rope_layers", format!("is no list of 0 and 1 for {layers} layers"))),
        };
        let window = if keys.is_on("use_sliding_window")? { keys.optional_size("sliding_window")? } else { None };
        let sliding = keys.sliding_layers(layers)?;
        for (index, layer) in model.layers.iter_mut().enumerate() {
            let slides = sliding.as_ref().map_or(!rotates[index], |sliding| sliding[index]);
            layer.window = window.filter(|_| slides);
            layer.rope = rotates[index].then_some(0);
        }
        keys.rotate_whole_heads(model)
    },
    from_gguf: |_, model| {
        model.layers.iter_mut().skip(INTERVAL - 1).step_by(INTERVAL).for_each(|layer| layer.rope = None);
        Ok(())
    },
    to_gguf: |_, _| {},
    to_json: |model, map| {
        map.insert("attention_bias".to_owned(), json!(model.query_key_value_bias));
        map.insert("mlp_bias".to_owned(), json!(model.mlp_bias));
        let rotates: Vec<u32> = model.layers.iter().map(|layer| u32::from(layer.rope.is_some())).collect();
        map.insert("no_rope_layers".to_owned(), json!(rotates));
        say_windows(model, map);
    },
    interleaved: true,
    ggml_norms: super::GGML_NORMS,
};

/// Every fourth layer.
const INTERVAL: usize = 4;
