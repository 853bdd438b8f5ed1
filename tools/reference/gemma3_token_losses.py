#!/usr/bin/env python3
"""Token losses of a Gemma 3 GGUF file by transformers, on the file's own weights dequantised, beside those of graftling.

    graftling generate --model MODEL.gguf --prompt "$(cat TEXT)" --max-new-tokens 1 --json > ids.json
    python tools/reference/gemma3_token_losses.py MODEL.gguf ids.json --records records.jsonl
    graftling eval --model MODEL.gguf --data records.jsonl --json --per-token > found.json
    python tools/reference/gemma3_token_losses.py MODEL.gguf ids.json --found found.json

The first call writes the ids as one record that is supervised throughout; the second prints both mean losses and the largest
distance of a token's loss, and ends with 1 if that exceeds 5e-4 (the bound of tests/parity).
"""

import argparse
import json
import pathlib
import sys

import gguf
import numpy as np
import torch
from gguf.quants import dequantize
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

BOUND = 5e-4
BLOCK_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


def field(reader, key):
    return reader.get_field(key).contents()


def canonical_name(name):
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{BLOCK_NAMES[parts[2]]}.weight"
    return f"{TOP_NAMES[parts[0]]}.weight"


def read_model(path):
    reader = gguf.GGUFReader(path)
    architecture = field(reader, "general.architecture")
    if architecture != "gemma3":
        raise SystemExit(f"{path}: architecture {architecture!r}; only 'gemma3' is read")

    def of(key):
        return field(reader, f"gemma3.{key}")

    config = Gemma3TextConfig(
        vocab_size=len(field(reader, "tokenizer.ggml.tokens")),
        hidden_size=of("embedding_length"),
        intermediate_size=of("feed_forward_length"),
        num_hidden_layers=of("block_count"),
        num_attention_heads=of("attention.head_count"),
        num_key_value_heads=of("attention.head_count_kv"),
        head_dim=of("attention.key_length"),
        query_pre_attn_scalar=of("attention.key_length"),
        sliding_window=of("attention.sliding_window"),
        layer_types=["sliding_attention" if (layer + 1) % 6 else "full_attention" for layer in range(of("block_count"))],
        # the file holds the f32 nearest to a short decimal number
        rms_norm_eps=float(f"{of('attention.layer_norm_rms_epsilon'):.6g}"),
        max_position_embeddings=of("context_length"),
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": float(of("rope.freq_base"))},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    weights = {}
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
        # llama.cpp stores the factor of a norm, transformers what is added to 1
        values = values - 1.0 if len(shape) == 1 else values
        weights[canonical_name(tensor.name)] = torch.from_numpy(np.ascontiguousarray(values))
    with torch.device("meta"):
        model = Gemma3ForCausalLM(config)
    # The rotary tables and the embedding's scale are no weights, and are computed on the real device.
    model = model.to_empty(device="cpu")
    fresh = Gemma3ForCausalLM(Gemma3TextConfig(**{**config.to_dict(), "vocab_size": 8, "pad_token_id": 0}))
    buffers = dict(fresh.named_buffers())
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    if unexpected or missing not in ([], ["lm_head.weight"]):
        raise SystemExit(f"{path}: missing {missing}, unexpected {unexpected}")
    return model.eval()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("gguf", type=pathlib.Path)
    arguments.add_argument("ids", type=pathlib.Path)
    arguments.add_argument("--records", type=pathlib.Path)
    arguments.add_argument("--found", type=pathlib.Path)
    options = arguments.parse_args()
    ids = json.loads(options.ids.read_text())["prompt_ids"]
    if options.records:
        options.records.write_text(json.dumps({"input_ids": ids, "labels": ids}) + "\n")
    if not options.found:
        return
    model = read_model(options.gguf)
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, :-1].float()
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none").numpy()
    found = np.array(json.loads(options.found.read_text())["examples"][0]["token_nll"])
    distance = np.abs(found - expected)
    worst = int(distance.argmax())
    print(f"{len(expected)} tokens: mean {expected.mean():.6f} by transformers, {found.mean():.6f} by graftling")
    print(f"largest distance {distance[worst]:.2e} at token {worst + 1} ({expected[worst]:.6f}), bound {BOUND:.0e}")
    sys.exit(1 if distance[worst] > BOUND else 0)


if __name__ == "__main__":
    main()
