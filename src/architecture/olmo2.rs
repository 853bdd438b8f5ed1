//! OLMo 2: Llama with norms after attention and MLP in place of those before, and norms of query and key over all heads together.

use serde_json::json;

use super::{Defaults, Family, Norms, QueryKeyNorm};

pub(super) static FAMILY: Family = Family {
    class: "Olmo2ForCausalLM",
    model_type: "olmo2",
    ggml: "olmo2",
    models: "OLMo 2",
    keys: &["attention_bias"],
    defaults: Defaults { rms_norm_eps: 1e-5, ..Defaults::LLAMA },
    experts: None,
    from_json: |keys, model| {
        keys.expect_activation("hidden_act", &["silu"])?;
        model.norms = Norms::After;
        model.query_key_norm = QueryKeyNorm::Width;
        model.query_key_value_bias = keys.is_on("attention_bias")?;
        model.attention_output_bias = model.query_key_value_bias;
        keys.rotate_whole_heads(model)
    },
    from_gguf: |_, model| {
        model.norms = Norms::After;
        model.query_key_norm = QueryKeyNorm::Width;
        Ok(())
    },
    to_gguf: |_, _| {},
    to_json: |model, map| {
        map.insert("attention_bias".to_owned(), json!(model.query_key_value_bias));
    },
    interleaved: false,
    ggml_norms: super::GGML_NORMS,
};
