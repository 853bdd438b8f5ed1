"""Experts in MXFP4 as gpt-oss is published: random ones that a block holds exactly, and a folder with `*_blocks` and `*_scales`."""

import json
import shutil

import numpy as np
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
BLOCK = 32


def random_experts(generator, shape):
    """[experts, in, out], each column in blocks of codes with a power of two: of the scale of other weights, and exact in bf16."""
    experts, inputs, outputs = shape
    codes = generator.integers(0, 16, (experts, outputs, inputs // BLOCK, BLOCK))
    exponents = generator.integers(-4, -1, (experts, outputs, inputs // BLOCK, 1))
    values = VALUES[codes] * 2.0**exponents
    return values.reshape(experts, outputs, inputs).swapaxes(1, 2)


def in_blocks(matrix):
    """The blocks [experts, out, in / 32, 16] and scales [experts, out, in / 32] of exact [experts, in, out]."""
    experts, inputs, outputs = matrix.shape
    values = matrix.float().numpy().swapaxes(1, 2).reshape(experts, outputs, inputs // BLOCK, BLOCK)
    scales, codes = np.zeros(values.shape[:-1], np.uint8), np.zeros(values.shape, np.uint8)
    for exponent in range(-6, 0):
        scaled = np.abs(values)[..., None] / 2.0**exponent - VALUES[:8]
        exact = (np.abs(scaled).min(-1) == 0).all(-1)
        own = np.abs(scaled).argmin(-1).astype(np.uint8) | np.signbit(values).astype(np.uint8) << 3
        scales = np.where(exact, np.uint8(exponent + 127), scales)
        codes = np.where(exact[..., None], own, codes)
    assert scales.min() > 0, "not exact"
    return torch.from_numpy(codes[..., ::2] | codes[..., 1::2] << 4), torch.from_numpy(scales)


def as_published(folder, out):
    """The model of `folder` in `out` with its experts in blocks; transformers reads the same numbers from both."""
    out.mkdir()
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = in_blocks(tensor)
        else:
            tensors[name] = tensor
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    ours = hf.AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16)
    theirs = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.state_dict().items()), "transformers reads other numbers"
