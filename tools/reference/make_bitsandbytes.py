#!/usr/bin/env python3
"""Tiny models as transformers and bitsandbytes save it in 4 and 8 bits, with the values that bitsandbytes reads from it, and QLoRA runs.

    python tools/reference/make_bitsandbytes.py [--out tests/fixtures/reference/bitsandbytes]

`base` has rows of 64 and 128 values, `odd` of 64 and 96: blocks of 64 cross the rows of its `down_proj`. The other folders hold one of them as
NF4 with and without double quantisation, as FP4, and in LLM.int8. `expected.json` has, of each, the token losses in f64 of the model of dequantised weights, and of the
two in NF4 five AdamW steps of PEFT's LoRA on bitsandbytes' layers, on a CPU in f32. `values.safetensors` has some of the dequantised matrices,
and the trained adapters.
"""

import argparse
import json
import os
import pathlib
import shutil
import tempfile

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # bitsandbytes would compile what is run once

import bitsandbytes as bnb
import numpy as np
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import lora_run as run
import make_tiny

BASES = {
    "base": dict(size=(72, 64, 128, 2, 4, 2), tie=False, dtype=torch.bfloat16),
    "odd": dict(size=(72, 64, 96, 2, 4, 2), tie=False, dtype=torch.bfloat16),
}
RANK, ALPHA, LEARNING_RATE, STEPS = 4, 8, 2e-3, 5
FOUR = dict(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
DOUBLE = dict(bnb_4bit_use_double_quant=True, **FOUR)
FOLDERS = {
    "nf4_double": ("base", BitsAndBytesConfig(bnb_4bit_quant_type="nf4", **DOUBLE)),
    "nf4": ("base", BitsAndBytesConfig(bnb_4bit_quant_type="nf4", **FOUR)),
    "odd_nf4_double": ("odd", BitsAndBytesConfig(bnb_4bit_quant_type="nf4", **DOUBLE)),
    "odd_fp4": ("odd", BitsAndBytesConfig(bnb_4bit_quant_type="fp4", **FOUR)),
    "fp4_double": ("base", BitsAndBytesConfig(bnb_4bit_quant_type="fp4", **DOUBLE)),
    "int8": ("base", BitsAndBytesConfig(load_in_8bit=True)),
    "odd_int8": ("odd", BitsAndBytesConfig(load_in_8bit=True)),
}


def quantised(base, config):
    return AutoModelForCausalLM.from_pretrained(
        base, quantization_config=config, dtype=torch.float32, attn_implementation="eager", device_map="cpu"
    ).eval()


def four_bits(codes, state):
    """By bitsandbytes' general code: its CPU kernel (0.50.2) takes the absmax of other blocks where blocks cross rows."""
    absmax = state.absmax
    if state.nested:
        absmax = bnb.functional.dequantize_blockwise(absmax, state.state2) + state.offset
    return _dequantize_4bit_compute(codes.reshape(-1), absmax, state.code, state.blocksize, state.shape, torch.float32)


def dequantised(model):
    """The matrices that bitsandbytes holds, in f32, by name."""
    values = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, bnb.nn.Linear4bit):
            values[f"{name}.weight"] = four_bits(weight.data, weight.quant_state)
        elif isinstance(module, bnb.nn.Linear8bitLt):
            scale = module.state.SCB if module.state.SCB is not None else weight.SCB
            values[f"{name}.weight"] = bnb.functional.int8_vectorwise_dequant(weight.data, scale)
    return {name: value.clone().contiguous() for name, value in values.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/fixtures/reference/bitsandbytes"))
    out = parser.parse_args().out
    torch.set_num_threads(1)
    shutil.rmtree(out, ignore_errors=True)
    generator = np.random.default_rng(12)
    for name, fixture in BASES.items():
        (out / name).mkdir(parents=True)
        make_tiny.write_model(out / name, generator, fixture)
    records = [{"input_ids": generator.integers(3, 72, length).tolist()} for length in (24, 17, 30, 9, 21)]
    expected = {"lora": {"r": RANK, "alpha": ALPHA}, "learning_rate": LEARNING_RATE, "records": records, "folders": {}}
    all_values = {}
    for name, (base, config) in FOLDERS.items():
        base = out / base
        model = quantised(base, config)
        model.save_pretrained(out / name)
        values = dequantised(quantised_again(out / name))
        assert len(values) == 14, sorted(values)
        kept = [key for key in values if "layers.1." in key and ("k_proj" in key or "down_proj" in key)]
        all_values |= {f"{name}.{key}": values[key] for key in kept}
        with tempfile.TemporaryDirectory() as folder:
            plain = {key: value.float() for key, value in load_file(base / "model.safetensors").items()} | values
            save_file(plain, pathlib.Path(folder) / "model.safetensors", metadata={"format": "pt"})
            shutil.copy(base / "config.json", folder)
            with torch.no_grad():
                nll, _ = run.token_nll(run.load_model(folder, "f64"), records[0]["input_ids"])
        figures = {"token_nll": nll.tolist()}
        if name.startswith("nf4"):
            adapted = run.add_lora(model, run.ATTENTION + run.MLP, RANK, ALPHA, b_bound=0.25)
            # Layers whose inputs need no gradient would multiply in bf16 on some CPUs, unless they are in training.
            adapted.train()
            figures["losses"], figures["grad_norms"] = run.train(
                adapted, [[[record]] for record in records[:STEPS]], LEARNING_RATE
            )
            all_values |= {f"{name}.adapter.{key}": value.float() for key, value in run.values(adapted).items()}
        expected["folders"][name] = figures
    for name in FOLDERS:
        for path in (out / name).iterdir():
            if path.name not in ("config.json", "model.safetensors"):
                path.unlink()
    save_file(all_values, out / "values.safetensors")
    (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def quantised_again(folder):
    """The saved folder, opened as anyone would."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu").eval()


if __name__ == "__main__":
    main()
