//! Tensor names: ggml's (`gguf-py/gguf/constants.py`) to Hugging Face's.

/// Hugging Face's name of a ggml tensor, or `None` if it has none: `blk.3.attn_q.weight` is
/// `model.layers.3.self_attn.q_proj.weight`.
pub fn to_hugging_face(name: &str) -> Option<String> {
    let (stem, suffix) = name.rsplit_once('.').filter(|(_, suffix)| matches!(*suffix, "weight" | "bias"))?;
    let module = match stem {
        "token_embd" => "model.embed_tokens".to_owned(),
        "output_norm" => "model.norm".to_owned(),
        "output" => "lm_head".to_owned(),
        _ => {
            let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
            // Through a number, so that `blk.03` or `blk.+3` is no second name of layer 3.
            let number: usize = layer.parse().ok()?;
            if number.to_string() != layer {
                return None;
            }
            let part = match part {
                "attn_norm" => "input_layernorm",
                "ffn_norm" => "post_attention_layernorm",
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_qkv" => "self_attn.qkv_proj",
                "attn_output" => "self_attn.o_proj",
                "ffn_gate" => "mlp.gate_proj",
                "ffn_up" => "mlp.up_proj",
                "ffn_down" => "mlp.down_proj",
                _ => return None,
            };
            format!("model.layers.{number}.{part}")
        }
    };
    Some(format!("{module}.{suffix}"))
}
