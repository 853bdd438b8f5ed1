//! Gemma 3, text: Gemma 2 with norms of query and key in place of soft caps, and one layer in six without a window, which has a rotation
//! of its own. The larger models see images too; of those the text part is read.

use serde_json::{Map, Value, json};

use super::gemma2::{self, features, json_features, say, windows};
use super::gguf::Value as Said;
use super::{Defaults, Family, QueryKeyNorm, Rope};

pub(super) static FAMILY: Family = Family {
    class: "Gemma3ForCausalLM",
    model_type: "gemma3_text",
    ggml: "gemma3",
    models: "Gemma 3",
    keys: &KEYS,
    defaults: Defaults {
        vocab_size: Some(262_208),
        num_attention_heads: Some(8),
        max_position_embeddings: 131_072,
        rope_theta: GLOBAL_THETA,
        ..gemma2::DEFAULTS
    },
    experts: None,
    from_json: |keys, model| {
        features(model);
        model.query_key_norm = QueryKeyNorm::Head;
        model.attention_softcap = keys.optional_number("attn_logit_softcapping")?;
        model.final_softcap = keys.optional_number("final_logit_softcapping")?;
        let pattern = keys.optional_size("sliding_window_pattern")?.unwrap_or(PATTERN);
        windows(keys, model, |layer| !(layer + 1).is_multiple_of(pattern.max(1)))?;
        model.layers.iter_mut().for_each(|layer| layer.rope = Some(usize::from(layer.window.is_some())));

        // `rope_parameters` by the kind of layer; `rope_scaling` stands for that of the layers without a window.
        let part = |key: &str, kind: &str| -> Map<String, Value> {
            let whole = keys.get(key).and_then(Value::as_object);
            let part = if kind.is_empty() { whole } else { whole.and_then(|whole| whole.get(kind)?.as_object()) };
            part.cloned().unwrap_or_default()
        };
        let mut global = part("rope_parameters", "full_attention");
        global.extend(part("rope_scaling", ""));
        let local = part("rope_parameters", "sliding_attention");
        let local_theta = keys.number_or("rope_local_base_freq", LOCAL_THETA)?;
        let global_theta = keys.number_or("rope_theta", GLOBAL_THETA)?;
        model.ropes = vec![
            keys.rope_of(&global, "rope_parameters", global_theta, model)?,
            keys.rope_of(&local, "rope_parameters", local_theta, model)?,
        ];
        json_features(keys, model)
    },
    from_gguf: |keys, model| {
        features(model);
        model.query_key_norm = QueryKeyNorm::Head;
        if model.num_hidden_layers == 62 {
            model.attention_scale = ((model.hidden_size / model.num_attention_heads) as f64).powf(-0.5);
        }
        let window = keys.size("attention.sliding_window")?.unwrap_or(4096);
        let pattern = match keys.numbers("attention.sliding_window_pattern")?.as_slice() {
            [] => Pattern::Every(PATTERN),
            [every] => Pattern::Every((*every).max(1.0) as usize),
            flags => Pattern::Flags(flags.iter().map(|&flag| flag != 0.0).collect()),
        };
        for (index, layer) in model.layers.iter_mut().enumerate() {
            let slides = match &pattern {
                Pattern::Every(every) => !(index + 1).is_multiple_of(*every),
                Pattern::Flags(flags) => flags.get(index).copied().unwrap_or(false),
            };
            layer.window = slides.then_some(window);
            layer.rope = Some(usize::from(slides));
        }
        model.ropes.push(Rope::plain(keys.number("rope.freq_base_swa")?.unwrap_or(LOCAL_THETA), model.head_dim));
        Ok(())
    },
    to_gguf: |model, said| {
        said.say("attention.sliding_window", Said::Size(model.windows().first().copied().unwrap_or(0)));
        // What llama.cpp takes where nothing is said is left out, as its converter does.
        let slides: Vec<bool> = model.layers.iter().map(|layer| layer.window.is_some()).collect();
        if slides.iter().enumerate().any(|(index, &slides)| slides == (index + 1).is_multiple_of(PATTERN)) {
            said.say("attention.sliding_window_pattern", Said::Flags(slides));
        }
        if let Some(local) = model.ropes.get(1).filter(|local| local.theta != LOCAL_THETA) {
            said.say("rope.freq_base_swa", Said::Number(local.theta));
        }
    },
    to_json: |model, map| {
        say(model, map);
        if let Some(local) = model.ropes.get(1) {
            map.insert("rope_local_base_freq".to_owned(), json!(local.theta));
        }
    },
    interleaved: false,
    ggml_norms: super::GGML_NORMS,
};

/// Those of Gemma 2, and two more.
const KEYS: [&str; gemma2::KEYS.len() + 2] = {
    let mut keys = ["rope_local_base_freq"; gemma2::KEYS.len() + 2];
    let (_, rest) = keys.split_at_mut(1);
    let (inherited, own) = rest.split_at_mut(gemma2::KEYS.len());
    inherited.copy_from_slice(&gemma2::KEYS);
    own[0] = "sliding_window_pattern";
    keys
};

/// Every sixth layer has no window.
const PATTERN: usize = 6;
/// theta of the layers without a window.
const GLOBAL_THETA: f64 = 1_000_000.0;
/// theta of the layers with one.
const LOCAL_THETA: f64 = 10_000.0;

/// How a GGUF file says which layers have a window.
enum Pattern {
    /// All but each so manieth.
    Every(usize),
    Flags(Vec<bool>),
}
