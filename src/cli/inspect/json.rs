//! The report as one JSON document.

use graftling::architecture::{Part, RopeScaling};
use graftling::formats::TextSource;
use graftling::storage::DType;
use graftling::storage::source::FormatTotal;
use graftling::train::ask::bottleneck::AdapterMethod;
use serde_json::{Value, json};

use super::{Adapter, Counts, Model, bytes_in, module_rows, tokenizer_facts};

pub(super) fn json_report(model: &Model, adapter: &Adapter) -> Value {
    let config = &model.config;
    let counts = Counts::of(config);
    let layers: Vec<Value> = counts
        .layers
        .iter()
        .enumerate()
        .map(|(layer, [attention, mlp, norm])| {
            json!({"layer": layer, "parameters": attention + mlp + norm, "attention": attention, "mlp": mlp, "norm": norm,
                   "sliding_window": config.layers[layer].window, "rotated": config.layers[layer].rope.is_some()})
        })
        .collect();
    let modules: Vec<Value> = module_rows(config)
        .into_iter()
        .map(|row| {
            json!({"module": row.module, "part": row.part.name(), "shape": row.shape, "bias": row.bias, "count": row.count,
                   "parameters_each": row.each, "parameters": row.each * row.count as u64})
        })
        .collect();
    let part = |part: Part| counts.by_part.get(&part).copied().unwrap_or(0);
    json!({
        "model": model.name,
        "architecture": config.class,
        "trainable": config.supported().is_ok(),
        "not_trainable_because": config.supported().err().map(|error| error.to_string()),
        "config": {
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "head_dim": config.head_dim,
            "max_position_embeddings": config.max_position_embeddings,
            "rms_norm_eps": config.rms_norm_eps,
            "rope_theta": config.ropes[0].theta,
            "rope_scaling": json_rope_scaling(&config.ropes[0].scaling),
            "tie_word_embeddings": config.tie_word_embeddings,
            "experts": config.experts.as_ref().map(|experts| json!({
                "count": experts.count, "per_token": experts.per_token, "intermediate_size": experts.intermediate_size,
                "shared_intermediate_size": experts.shared_intermediate_size, "renormalised": experts.renormalised,
                "layers": experts.layers,
            })),
        },
        "parameters": counts.total,
        "active_parameters": counts.active,
        "parameters_by_part": Part::ALL.into_iter().map(|p| (p.name().to_owned(), json!(part(p)))).collect::<serde_json::Map<_, _>>(),
        "modules": modules,
        "layers": layers,
        "bytes": DType::WEIGHTS.into_iter().map(|s| (s.name().to_lowercase(), json!(bytes_in(config, s)))).collect::<serde_json::Map<_, _>>(),
        "weights": model.weights.as_ref().map(|weights| json!({
            "complete": weights.problem.is_none(),
            "problem": weights.problem,
            "quantised_by": weights.quantised_by,
            "storage": weights.by_type.iter().map(|(name, FormatTotal { tensors, values, bytes })| {
                json!({"type": name, "tensors": tensors, "parameters": values, "bytes": bytes})
            }).collect::<Vec<_>>(),
        })),
        "text": model.text.as_ref().map(json_text),
        "adapter": {
            "target_modules": adapter.modules.iter().map(|module| module.module).collect::<Vec<_>>(),
            "layers": adapter.layers,
            "adapter_method": adapter.method,
            "lora_r": (adapter.method == AdapterMethod::Lora).then_some(adapter.size),
            "bottleneck_size": (adapter.method != AdapterMethod::Lora).then_some(adapter.size),
            "trainable_parameters": adapter.parameters(),
            "share": adapter.parameters() as f64 / counts.total as f64,
            "bytes_f32": adapter.parameters() * 4,
        },
        "training": adapter.needs(config, counts.total).iter().map(|need| {
            json!({"weights": need.weights, "bytes": need.bytes, "bytes_recompute_all": need.recomputed})
        }).collect::<Vec<_>>(),
    })
}

/// The scaling with the keys of config.json; null for none.
fn json_rope_scaling(scaling: &RopeScaling) -> Value {
    match scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
        RopeScaling::Dynamic { factor, .. } => json!({"rope_type": "dynamic", "factor": factor}),
        RopeScaling::Yarn { factor, attention_factor, beta_fast, beta_slow, truncate, original_max_position_embeddings } => {
            json!({
                "rope_type": "yarn",
                "factor": factor,
                "attention_factor": attention_factor,
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "truncate": truncate,
                "original_max_position_embeddings": original_max_position_embeddings,
            })
        }
        RopeScaling::LongRope { short, long, attention_factor, original_max_position_embeddings } => json!({
            "rope_type": "longrope",
            "short_factor": short,
            "long_factor": long,
            "attention_factor": attention_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
        RopeScaling::Factors(factors) => json!({"rope_type": "factors", "factors": factors}),
        RopeScaling::Unsupported(kind) => json!({"rope_type": kind}),
    }
}

fn json_text(text: &TextSource) -> Value {
    let facts = tokenizer_facts(&text.tokenizer);
    json!({
        "tokenizer": facts.as_ref().map(|facts| &facts.0),
        "tokens": facts.as_ref().map(|facts| facts.1),
        "bos_token": text.bos_token,
        "eos_token": text.eos_token,
        "eos_token_ids": text.eos_token_ids,
        "chat_template": text.chat_template,
    })
}
