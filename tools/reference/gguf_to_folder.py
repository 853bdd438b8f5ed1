#!/usr/bin/env python3
"""Turn a GGUF file into a Hugging Face folder with the very same weights.

    python tools/reference/gguf_to_folder.py MODEL.gguf FOLDER [--dtype f32|f16|bf16]

Block-quantised tensors are dequantised exactly (the arithmetic of the format, in f32), so PyTorch and graftling work on the
same numbers. llama.cpp stores the rows of q_proj and k_proj interleaved for its own rotary embedding; they are put back into
the half-split order that Hugging Face models use. With `--dtype f16` or `bf16` the weights are rounded.

The architecture `llama` is read here, so that the file's tokenizer is the very one that llama.cpp has. All others are read by transformers
(of graftling's families: qwen2, qwen3, gemma2, gemma3, phi3); what it leaves out of a config is its defaults.

Writes config.json, model.safetensors, tokenizer.json, tokenizer_config.json, generation_config.json and chat_template.jinja.
"""

import argparse
import json
import pathlib

import gguf
import numpy as np
import torch
from gguf.quants import dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

BLOCK_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
CONTROL_TOKEN = 3  # tokenizer.ggml.token_type of special tokens
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def field(reader, key, default=None):
    found = reader.get_field(key)
    return default if found is None else found.contents()


def canonical_name(name):
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`; None where Hugging Face has no such tensor."""
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{BLOCK_NAMES[parts[2]]}.{parts[3]}"
    return f"{TOP_NAMES[parts[0]]}.{parts[1]}" if parts[0] in TOP_NAMES else None


def half_split_rows(weight, heads):
    """Undo llama.cpp's permutation. weight [heads * head_dim, in]: rows 0, h/2, 1, h/2+1, ... of each head -> 0, 1, 2, ..."""
    out_features, in_features = weight.shape
    head_dim = out_features // heads
    return weight.reshape(heads, head_dim // 2, 2, in_features).swapaxes(1, 2).reshape(out_features, in_features)


def read_weights(reader, config):
    weights = {}
    for tensor in reader.tensors:
        name = canonical_name(tensor.name)
        if name is None:
            continue
        shape = [int(n) for n in reversed(tensor.shape)]
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
        if name.endswith("q_proj.weight"):
            values = half_split_rows(values, config["num_attention_heads"])
        if name.endswith("k_proj.weight"):
            values = half_split_rows(values, config["num_key_value_heads"])
        weights[name] = torch.from_numpy(np.ascontiguousarray(values))
    return weights


def read_config(reader):
    def llama(key, default=None):
        return field(reader, f"llama.{key}", default)

    heads = llama("attention.head_count")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(field(reader, "tokenizer.ggml.tokens")),
        "hidden_size": llama("embedding_length"),
        "intermediate_size": llama("feed_forward_length"),
        "num_hidden_layers": llama("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": llama("attention.head_count_kv", heads),
        "head_dim": llama("attention.key_length", llama("embedding_length") // heads),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        # the file holds the f32 nearest to a short decimal number
        "rms_norm_eps": float(f"{llama('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": float(llama("rope.freq_base", 10000.0)),
        "max_position_embeddings": llama("context_length"),
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
        "bos_token_id": field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": field(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": field(reader, "tokenizer.ggml.padding_token_id"),
    }
    return config


def build_tokenizer(reader):
    """Byte-level BPE from the metadata. `smollm` splits every digit first; `llama-bpe` has its own pattern; else GPT-2's."""
    tokens = field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    pre = field(reader, "tokenizer.ggml.pre", "gpt-2")
    if pre == "smollm":
        steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    elif pre == "llama-bpe":
        steps = [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    elif pre == "gpt-2":
        steps = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        raise SystemExit(f"pre-tokenizer {pre!r} is not known here (known: smollm, llama-bpe, gpt-2)")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    types = field(reader, "tokenizer.ggml.token_type")
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, types) if kind == CONTROL_TOKEN]
    )
    return tokenizer, tokens


def write_tokenizer(reader, folder):
    tokenizer, tokens = build_tokenizer(reader)
    tokenizer.save(str(folder / "tokenizer.json"))
    # PreTrainedTokenizerFast takes tokenizer.json as it is; a model's own class may replace its pre-tokenizer
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, "add_bos_token": False}
    for role in ("bos", "eos", "padding", "unknown"):
        token = field(reader, f"tokenizer.ggml.{role}_token_id")
        if token is not None:
            settings[{"padding": "pad", "unknown": "unk"}.get(role, role) + "_token"] = tokens[token]
    template = field(reader, "tokenizer.chat_template")
    if template:
        settings["chat_template"] = template
        (folder / "chat_template.jinja").write_text(template)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def convert_by_transformers(path, folder, dtype):
    source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=dtype)
    folder.mkdir(parents=True, exist_ok=True)
    # transformers remembers that the model was quantised, and would not save it
    weights = {name: values.contiguous() for name, values in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("gguf", type=pathlib.Path)
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--dtype", choices=["f32", "f16", "bf16"], default="f32")
    options = arguments.parse_args()

    reader = gguf.GGUFReader(options.gguf)
    architecture = field(reader, "general.architecture")
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[options.dtype]
    if architecture != "llama":
        convert_by_transformers(options.gguf, options.folder, dtype)
        print(f"{options.folder}: {architecture}, read by transformers, {options.dtype}")
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    config = read_config(reader)
    weights = {name: values.to(dtype) for name, values in read_weights(reader, config).items()}
    save_file(weights, options.folder / "model.safetensors", metadata={"format": "pt"})
    config["torch_dtype"] = str(dtype).removeprefix("torch.")
    (options.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (options.folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    write_tokenizer(reader, options.folder)
    print(f"{options.folder}: {len(weights)} tensors, {sum(w.numel() for w in weights.values()):,} parameters, {options.dtype}")


if __name__ == "__main__":
    main()
