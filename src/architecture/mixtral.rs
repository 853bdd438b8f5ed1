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
    experts: Some(ExpertNames {
        parent: "block_sparse_moe",
        experts: "block_sparse_moe.experts",
        modules: ["w1", "w3", "w2"],
        ..ExpertNames::USUAL
    }),
    from_json: |keys, model| {
        keys.expect_activation("hidden_act", &["silu"])?;
        let window = keys.optional_size("sliding_window")?;
        model.layers.iter_mut().for_each(|layer| layer.window = window);
        model.experts = Some(Experts::local(keys, model, [8, 2])?);
        keys.rotate_whole_heads(model)
    },
    from_gguf: |keys, model| {
        model.experts = Some(Experts::from_gguf(keys, model, true, false)?);
        Ok(())
    },
    to_gguf: Experts::to_gguf,
    to_json: |model, map| {
        map.insert("sliding_window".to_owned(), json!(model.windows().first()));
        Experts::say_local(model, map);
    },
    interleaved: true,
    ggml_norms: super::GGML_NORMS,
};
