//! Mixtral: Mistral with experts in every layer, the weights of which add up to 1. Its GGUF files are of architecture `llama`.

use serde_json::json;

use super::experts::{ExpertNames, Experts};
use super::{Defaults, Family};

pub(super) static FAMILY: Family = Family {
    class: "MixtralForCausalLM",
    model_type: "mixtral",
    ggml: "",
    models: "Mixtral",
    // The last is about training from scratch: noise of the router is not made.
    keys: &["sliding_window", "num_local_experts", "num_experts_per_tok", "router_aux_loss_coef", "router_jitter_noise"],
    defaults: Defaults {
        num_key_value_heads: Some(8),
        rms_norm_eps: 1e-5,
        max_position_embeddings: 4096 * 32,
        rope_theta: 1e6,
        ..Defaults::LLAMA
    },
    experts: Some(ExpertNames { parent: "block_sparse_moe", experts: "block_sparse_moe.experts", modules: ["w1", "w3", "w2"] }),
    from_json: |keys, model| {
        keys.expect_activation("hidden_act", &["silu"])?;
        let window = keys.optional_size("sliding_window")?;
        model.layers.iter_mut().for_each(|layer| layer.window = window);
        model.experts = Some(Experts {
            count: keys.optional_size("num_local_experts")?.unwrap_or(8),
            per_token: keys.optional_size("num_experts_per_tok")?.unwrap_or(2),
            intermediate_size: model.intermediate_size,
            renormalised: true,
            shared_intermediate_size: None,
            layers: vec![true; model.num_hidden_layers],
        });
        keys.rotate_whole_heads(model)
    },
    from_gguf: |keys, model| {
        model.experts = Some(Experts::from_gguf(keys, model, true, false)?);
        Ok(())
    },
    to_gguf: Experts::to_gguf,
    to_json: |model, map| {
        map.insert("sliding_window".to_owned(), json!(model.windows().first()));
        if let Some(experts) = &model.experts {
            map.insert("num_local_experts".to_owned(), json!(experts.count));
            map.insert("num_experts_per_tok".to_owned(), json!(experts.per_token));
        }
    },
    interleaved: true,
};
