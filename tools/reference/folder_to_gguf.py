#!/usr/bin/env python3
"""Turn a Hugging Face folder into a GGUF file as llama.cpp's converter would: names, permutation, norms + 1, metadata keys.

    python tools/reference/folder_to_gguf.py FOLDER MODEL.gguf

For tests: there is no tokenizer in the file, or the plainest. Matrices keep the type of the folder (bf16, f16 or f32), vectors are f32. What a GGUF file
of the family cannot say (Mistral's window, Qwen's windows, dynamic and YaRN's betas) is lost, as in llama.cpp.
"""

import argparse
import json
import math
import pathlib
import re

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

# model_type -> ggml architecture
ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "smollm3": "smollm3",
    "olmo2": "olmo2",
    "granite": "granite",
    "mixtral": "llama",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "gpt_oss": "gpt-oss",
}
INTERLEAVED = {"llama", "smollm3", "granite"}  # ggml's older rotary order
ONE_PLUS = {"gemma2", "gemma3"}


def interleaved_rows(weight, heads):
    """Rows of each head 0, d/2, 1, d/2 + 1, ...: the converter's `permute`."""
    rows = weight.shape[0]
    shaped = weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(shaped.swapaxes(1, 2).reshape(weight.shape))


def rope_of(config):
    """(theta, the scaling) of the layers without a window, and theta of those with one."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if "full_attention" in rope:
        full = rope["full_attention"]
        return full["rope_theta"], full, rope["sliding_attention"]["rope_theta"]
    return rope.get("rope_theta", config.get("rope_theta", 10000.0)), rope, None


def write_keys(writer, arch, config):
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    head_dim = config.get("head_dim") or hidden // heads
    theta, rope, _ = rope_of(config)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_freq_base(theta)
    part = rope.get("partial_rotary_factor", config.get("partial_rotary_factor") or 1.0)
    writer.add_rope_dimension_count(int(head_dim * part))
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "longrope":
        original = config["original_max_position_embeddings"]
        scale = config["max_position_embeddings"] / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0)
        for name in ("long", "short"):
            writer.add_tensor(f"rope_factors_{name}.weight", np.array(rope[f"{name}_factor"], dtype=np.float32))
    elif kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    elif kind != "default":
        raise SystemExit(f"rope type {kind!r} is not written here")
    if arch in ONE_PLUS or arch in ("phi3", "gpt-oss"):
        writer.add_sliding_window(config.get("sliding_window") or 0)
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    experts = config.get("num_experts") or config.get("num_local_experts")
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
        if "moe_intermediate_size" in config:
            writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
        if arch == "gpt-oss":
            writer.add_expert_feed_forward_length(config["intermediate_size"])
        if "shared_expert_intermediate_size" in config:
            writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    if arch == "granite":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])


def of_all_experts(tensors):
    """The tensors of single experts (`experts.3.w1`) as one of three dimensions (`experts.w1`)."""
    found = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.*\.experts)\.(\d+)\.(.*)", name)
        if match:
            found.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = tensor
        else:
            found[name] = tensor
    in_order = lambda experts: torch.stack([experts[number] for number in range(len(experts))])
    return {name: in_order(value) if isinstance(value, dict) else value for name, value in found.items()}


def experts_apart(tensors):
    """gpt-oss's parameters of all experts as llama.cpp has them: gate, up and down with rows of inputs; blocks of MXFP4 stay blocks."""
    found = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.*\.experts)\.(gate_up_proj|down_proj)(_bias|_blocks|_scales|)", name)
        if not match:
            found[f"{name}.weight" if name.endswith(".sinks") else name] = tensor
            continue
        parent, module, kind = match.groups()
        if kind == "_scales":
            continue
        if kind == "_blocks":
            scales = tensors[name.replace("_blocks", "_scales")]
            codes = torch.stack([tensor & 15, tensor >> 4], dim=-1).flatten(-2)
            halves = codes[..., :16] | codes[..., 16:] << 4
            tensor = torch.cat([scales[..., None], halves], dim=-1).flatten(-2)
        elif not kind:
            tensor = tensor.transpose(1, 2)
        parts = {"gate_proj": tensor[:, ::2], "up_proj": tensor[:, 1::2]} if module == "gate_up_proj" else {module: tensor}
        end = "bias" if kind == "_bias" else "weight"
        found |= {f"{parent}.{part}.{end}": value.contiguous() for part, value in parts.items()}
    return found


def convert(folder, path, words=None):
    """Writes `path`; with `words`, the texts of the ids of which the third is the first two
    in one, there is a vocabulary in it too."""
    config = json.loads((folder / "config.json").read_text())
    arch = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(path, arch)
    write_keys(writer, arch, config)
    if words:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(words)
        writer.add_token_types([gguf.TokenType.NORMAL] * len(words))
        writer.add_token_merges([f"{words[0]} {words[1]}"])
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    tensors = of_all_experts(load_file(folder / "model.safetensors"))
    for name, tensor in (experts_apart(tensors) if arch == "gpt-oss" else tensors).items():
        tensor = tensor.squeeze() if name.endswith("shared_expert_gate.weight") else tensor
        stem, suffix = name.rsplit(".", 1)
        if tensor.dtype == torch.uint8:
            target = f"{names.get_name(stem)}.{suffix}"
            writer.add_tensor(target, tensor.numpy(), raw_shape=tensor.shape, raw_dtype=gguf.GGMLQuantizationType.MXFP4)
            continue
        values = tensor.float().numpy()
        if arch in ONE_PLUS and name.endswith("norm.weight"):
            values = values + 1
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(stem.rsplit(".", 1)[-1])
        if arch in INTERLEAVED and heads:
            values = interleaved_rows(values, heads)
        target = f"{names.get_name(stem)}.{suffix}"
        if values.ndim == 1 or suffix == "bias" or "_inp" in target or tensor.dtype == torch.float32:
            writer.add_tensor(target, values.astype(np.float32))
        elif tensor.dtype == torch.float16:
            writer.add_tensor(target, values.astype(np.float16))
        else:
            raw = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
            writer.add_tensor(target, raw.view(np.uint8), raw_shape=raw.view(np.uint8).shape, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("gguf", type=pathlib.Path)
    options = arguments.parse_args()
    convert(options.folder, options.gguf)


if __name__ == "__main__":
    main()
