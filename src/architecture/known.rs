//! Well-known models, for tables that need no model file: the smallest first.

use super::Architecture;
use crate::Result;

/// Names and configurations.
///
/// # Errors
/// None: the texts below are sound.
pub fn configs() -> Result<Vec<(&'static str, Architecture)>> {
    MODELS.into_iter().map(|(name, text)| Ok((name, Architecture::from_json_str(text)?))).collect()
}

/// Three sizes of one family, for what grows with the model.
///
/// # Errors
/// None: the texts below are sound.
pub fn three_sizes() -> Result<Vec<(&'static str, Architecture)>> {
    [SMALL, MIDDLE, LARGE].into_iter().map(|(name, text)| Ok((name, Architecture::from_json_str(text)?))).collect()
}

const SMALL: (&str, &str) = (
    "Llama 3.2 1B",
    r#"{"architectures":["LlamaForCausalLM"],"vocab_size":128256,"hidden_size":2048,"intermediate_size":8192,"num_hidden_layers":16,
        "num_attention_heads":32,"num_key_value_heads":8,"rms_norm_eps":1e-5,"max_position_embeddings":131072,"tie_word_embeddings":true}"#,
);

const MIDDLE: (&str, &str) = (
    "Llama 3.1 8B",
    r#"{"architectures":["LlamaForCausalLM"],"vocab_size":128256,"hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32,
        "num_attention_heads":32,"num_key_value_heads":8,"rms_norm_eps":1e-5,"max_position_embeddings":131072,"tie_word_embeddings":false}"#,
);

const LARGE: (&str, &str) = (
    "Llama 3.1 70B",
    r#"{"architectures":["LlamaForCausalLM"],"vocab_size":128256,"hidden_size":8192,"intermediate_size":28672,"num_hidden_layers":80,
        "num_attention_heads":64,"num_key_value_heads":8,"rms_norm_eps":1e-5,"max_position_embeddings":131072,"tie_word_embeddings":false}"#,
);

/// What their config.json says, as far as shapes depend on it.
const MODELS: [(&str, &str); 5] = [
    (
        "SmolLM2 135M",
        r#"{"architectures":["LlamaForCausalLM"],"vocab_size":49152,"hidden_size":576,"intermediate_size":1536,"num_hidden_layers":30,
            "num_attention_heads":9,"num_key_value_heads":3,"rms_norm_eps":1e-5,"max_position_embeddings":8192,"tie_word_embeddings":true}"#,
    ),
    (
        "TinyLlama 1.1B",
        r#"{"architectures":["LlamaForCausalLM"],"vocab_size":32000,"hidden_size":2048,"intermediate_size":5632,"num_hidden_layers":22,
            "num_attention_heads":32,"num_key_value_heads":4,"rms_norm_eps":1e-5,"max_position_embeddings":2048,"tie_word_embeddings":false}"#,
    ),
    (
        "Llama 3.2 3B",
        r#"{"architectures":["LlamaForCausalLM"],"vocab_size":128256,"hidden_size":3072,"intermediate_size":8192,"num_hidden_layers":28,
            "num_attention_heads":24,"num_key_value_heads":8,"rms_norm_eps":1e-5,"max_position_embeddings":131072,"tie_word_embeddings":true}"#,
    ),
    MIDDLE,
    (
        "Qwen 3 30B-A3B",
        r#"{"architectures":["Qwen3MoeForCausalLM"],"vocab_size":151936,"hidden_size":2048,"intermediate_size":6144,"num_hidden_layers":48,
            "num_attention_heads":32,"num_key_value_heads":4,"head_dim":128,"num_experts":128,"num_experts_per_tok":8,
            "moe_intermediate_size":768,"norm_topk_prob":true,"max_position_embeddings":40960,"tie_word_embeddings":false}"#,
    ),
];
