#!/usr/bin/env python3
"""Tiny Llama models in the folders of libraries that quantise, and as PyTorch saves them, with what transformers and PEFT compute on them.

    python tools/reference/make_quantised.py [--out tests/fixtures/reference/quantised] [NAME ...]

Each folder holds the weights as a library writes them and `expected.json`: losses of one sequence without and with `adapter/` (which is the
same for all), five AdamW steps, and of every weight the SHA-256 of its values in f32. Values are computed as the library does, but in f32:
by mlx for MLX, by compressed-tensors for its own, and for GPTQ, AWQ and FP8 by the formula, with codes packed here. The figures are those of
the same values in a plain f32 folder, in f64 (lora_run.py). Needs mlx[cpu] and compressed-tensors besides requirements.txt.
"""

import argparse
import hashlib
import json
import pathlib
import shutil
import tempfile

import numpy as np
import torch
from safetensors.torch import save_file

import lora_run as run
from make_tiny import config_of, random_weights

RANK, ALPHA, B_BOUND = 4, 8, 0.25
ADAMW = {"learning_rate": 5e-3, "weight_decay": 0.1, "max_grad_norm": 3.0}
SIZE = (64, 64, 256, 2, 4, 2)
BASE = dict(size=SIZE, tie=False, dtype=torch.float16)


def is_linear(name):
    return name.endswith("_proj.weight")


def groups_of(weight, group):
    """[out, groups, group], the last group filled up with its last column."""
    out, columns = weight.shape
    group = columns if group == -1 else min(group, columns)
    missing = -columns % group
    return torch.cat([weight, weight[:, -1:].expand(out, missing)], 1).reshape(out, -1, group)


def affine(weight, bits, group, symmetric, dtype, first_zero=0):
    """Codes [out, in], scales and zero points [out, groups]."""
    parts = groups_of(weight, group)
    low, high, most = parts.amin(-1), parts.amax(-1), 2**bits - 1
    if symmetric:
        scale = (2 * torch.maximum(low.abs(), high.abs()) / most).to(dtype)
        zero = torch.full_like(low, 2 ** (bits - 1))
    else:
        scale = ((high.clamp(min=0) - low.clamp(max=0)) / most).to(dtype)
        zero = (-low / scale.float()).round().clamp(first_zero, most)
    codes = (parts / scale.float()[..., None] + zero[..., None]).round().clamp(0, most)
    return codes.reshape(weight.shape[0], -1)[:, : weight.shape[1]].int(), scale, zero.int()


def values_of(codes, scale, zero, group_of):
    return scale.float()[:, group_of] * (codes - zero[:, group_of]).float()


def pack(codes, bits, axis):
    """Codes one behind the other from the lowest bit of words of 32 bits along an axis, as int32."""
    codes = np.moveaxis(codes.numpy().astype(np.uint64), axis, -1)
    bit = (codes[..., None] >> np.arange(bits, dtype=np.uint64)) & np.uint64(1)
    stream = bit.reshape(*codes.shape[:-1], -1, 32)
    words = (stream << np.arange(32, dtype=np.uint64)).sum(-1).astype(np.uint32).view(np.int32)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(words, -1, axis)))


def gptq(weights, settings, first_form, of_module, act_order=False):
    """`of_module(name)` gives bits, group and whether symmetric."""
    stored, values = {}, {}
    generator = torch.Generator().manual_seed(7)
    for name, weight in weights.items():
        if not is_linear(name):
            continue
        module = name.removesuffix(".weight")
        bits, group, symmetric = of_module(name)
        columns = weight.shape[1]
        group = columns if group == -1 else group
        order = torch.randperm(columns, generator=generator) if act_order else torch.arange(columns)
        # Column order[i] was the i-th to be quantised.
        group_of = torch.empty(columns, dtype=torch.long)
        group_of[order] = torch.arange(columns) // group
        sorted_codes, scale, zero = affine(weight[:, order], bits, group, symmetric, torch.float16, first_zero=1)
        codes = torch.empty_like(sorted_codes)
        codes[:, order] = sorted_codes
        values[name] = values_of(codes, scale, zero, group_of)
        stored[module + ".qweight"] = pack(codes.T, bits, 0)
        stored[module + ".qzeros"] = pack(zero.T - int(first_form), bits, 1)
        stored[module + ".scales"] = scale.T.contiguous()
        stored[module + ".g_idx"] = group_of.int()
        if not act_order:
            stored[module + ".bias"] = torch.zeros(weight.shape[0], dtype=torch.float16)  # as AutoGPTQ writes them for any model
    return stored, values, {"quantization_config": {"quant_method": "gptq", "true_sequential": True, "lm_head": False} | settings}


def make_gptq(weights):
    bits = {"q": (4, 32, False), "k": (3, 64, False), "v": (2, 32, False), "o": (8, 32, False), "gate": (4, 64, True), "up": (3, 32, True), "down": (4, 128, False)}
    return gptq(weights, {"bits": 4, "group_size": 32, "desc_act": False, "sym": False, "checkpoint_format": "gptq"}, True,
                lambda name: bits[name.split(".")[-2].removesuffix("_proj")])


def make_gptq_v2(weights):
    return gptq(weights, {"bits": 8, "group_size": -1, "desc_act": False, "sym": True, "checkpoint_format": "gptq_v2"}, False,
                lambda name: (4, -1, True) if ".mlp." in name else (8, -1, True))


def make_gptq_act_order(weights):
    return gptq(weights, {"bits": 4, "group_size": 32, "desc_act": True, "sym": False}, True, lambda name: (4, 32, False), act_order=True)


def make_awq(weights):
    stored, values = {}, {}
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def pack_awq(codes):  # [rows, out]
        return pack(codes.reshape(codes.shape[0], -1, 8)[:, :, order].reshape(codes.shape), 4, 1)

    for name, weight in weights.items():
        if not is_linear(name):
            continue
        module = name.removesuffix(".weight")
        codes, scale, zero = affine(weight, 4, 64, False, torch.float16)
        values[name] = values_of(codes, scale, zero, torch.arange(weight.shape[1]) // 64)
        stored |= {module + ".qweight": pack_awq(codes.T), module + ".qzeros": pack_awq(zero.T), module + ".scales": scale.T.contiguous()}
    settings = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 64, "zero_point": True, "modules_to_not_convert": ["lm_head"]}
    return stored, values, {"quantization_config": settings}


def mlx_folder(weights, dtype, settings, of_module):
    import mlx.core as mx

    stored, values = {}, {}
    for name, weight in weights.items():
        bits_and_group = of_module(name)
        if weight.ndim < 2 or bits_and_group is None:
            continue
        bits, group = bits_and_group
        codes, scales, biases = mx.quantize(mx.array(weight.numpy()).astype(dtype), group_size=group, bits=bits)
        exact = mx.dequantize(codes, scales.astype(mx.float32), biases.astype(mx.float32), group_size=group, bits=bits)
        values[name] = torch.from_numpy(np.array(exact))
        module = name.removesuffix(".weight")
        to_torch = lambda array: torch.from_numpy(np.array(array.astype(mx.float32))).to(torch.bfloat16 if dtype == mx.bfloat16 else torch.float16)
        stored[name] = torch.from_numpy(np.array(codes)).view(torch.uint32)
        stored |= {module + ".scales": to_torch(scales), module + ".biases": to_torch(biases)}
    return stored, values, {"quantization": settings, "quantization_config": settings}


def make_mlx(weights):
    import mlx.core as mx

    own = {"model.layers.1.mlp.down_proj": {"group_size": 128, "bits": 8}, "lm_head": False}
    pick = lambda name: {"model.layers.1.mlp.down_proj.weight": (8, 128), "lm_head.weight": None}.get(name, (4, 64))
    return mlx_folder(weights, mx.bfloat16, {"group_size": 64, "bits": 4} | own, pick)


def make_mlx_mixed(weights):
    import mlx.core as mx

    bits = {"q": (2, 32), "k": (3, 32), "v": (5, 64), "o": (6, 32), "gate": (8, 32), "up": (2, 64), "down": (3, 128)}
    pick = lambda name: bits[name.split(".")[-2].removesuffix("_proj")] if is_linear(name) else (4, 32)
    own = {name.removesuffix(".weight"): dict(zip(("bits", "group_size"), pick(name))) for name in weights if is_linear(name)}
    return mlx_folder(weights, mx.float16, {"group_size": 32, "bits": 4, "mode": "affine"} | own, pick)


def compressed_settings(form, weights):
    groups = {"group_0": {"weights": weights, "input_activations": None, "output_activations": None, "targets": ["Linear"]}}
    return {"quantization_config": {"quant_method": "compressed-tensors", "format": form, "config_groups": groups, "ignore": ["lm_head"],
                                    "quantization_status": "compressed", "kv_cache_scheme": None}}


def make_compressed_int4(weights):
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32

    stored, values = {}, {}
    for name, weight in weights.items():
        if not is_linear(name):
            continue
        module = name.removesuffix(".weight")
        symmetric = ".mlp." in name
        codes, scale, zero = affine(weight, 4, 32, symmetric, torch.bfloat16)
        codes, zero = (codes - 8).to(torch.int8), (zero - 8).to(torch.int8)
        stored[module + ".weight_packed"] = packed = pack_to_int32(codes, 4)
        stored |= {module + ".weight_scale": scale, module + ".weight_shape": torch.tensor(weight.shape)}
        unpacked = unpack_from_int32(packed, 4, weight.shape)
        if not symmetric:
            stored[module + ".weight_zero_point"] = packed = pack_to_int32(zero, 4, packed_dim=0)
            zero = unpack_from_int32(packed, 4, zero.shape, packed_dim=0)
        values[name] = values_of(unpacked.int(), scale, zero.int(), torch.arange(weight.shape[1]) // 32)
    return stored, values, compressed_settings("pack-quantized", {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32})


def fp8(weights, square_of, key, shape_of):
    stored, values = {}, {}
    for name, weight in weights.items():
        if not is_linear(name):
            continue
        rows, columns = square_of(weight)
        parts = weight.reshape(weight.shape[0] // rows, rows, -1, columns)
        scale = (parts.abs().amax((1, 3)) / 448).float()
        codes = (parts / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        values[name] = (codes.float() * scale[:, None, :, None]).reshape(weight.shape)
        stored |= {name: codes.reshape(weight.shape), name + key: scale.reshape(shape_of(scale))}
    return stored, values


def make_fp8_block(weights):
    settings = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [32, 64], "modules_to_not_convert": ["lm_head"]}
    return *fp8(weights, lambda weight: (32, 64), "_scale_inv", lambda scale: scale.shape), {"quantization_config": settings}


def make_fp8_tensor(weights):
    settings = {"quant_method": "fp8", "activation_scheme": "static"}
    return *fp8(weights, lambda weight: weight.shape, "_scale", lambda scale: ()), {"quantization_config": settings}


def make_compressed_fp8(weights):
    settings = compressed_settings("float-quantized", {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"})
    return *fp8(weights, lambda weight: (1, weight.shape[1]), "_scale", lambda scale: scale.shape), settings


FOLDERS = {
    "gptq": make_gptq, "gptq_v2": make_gptq_v2, "gptq_act_order": make_gptq_act_order, "awq": make_awq, "mlx": make_mlx, "mlx_mixed": make_mlx_mixed,
    "compressed_int4": make_compressed_int4, "compressed_fp8": make_compressed_fp8, "fp8_block": make_fp8_block, "fp8_tensor": make_fp8_tensor,
    "pytorch": None,
}


def write_pytorch(folder, weights, adapter):
    """Two files with an index; a matrix that is stored transposed, and two tensors of one storage."""
    names = sorted(weights)
    saved = dict(weights)
    turned = "model.layers.0.mlp.up_proj.weight"
    saved[turned] = weights[turned].T.contiguous().T
    both = torch.cat([weights["model.layers.0.self_attn.k_proj.weight"], weights["model.layers.0.self_attn.v_proj.weight"]])
    saved["model.layers.0.self_attn.k_proj.weight"], saved["model.layers.0.self_attn.v_proj.weight"] = both.chunk(2)
    saved["model.norm.weight"] = torch.nn.Parameter(weights["model.norm.weight"])
    files = {"pytorch_model-00001-of-00002.bin": names[: len(names) // 2], "pytorch_model-00002-of-00002.bin": names[len(names) // 2 :]}
    for file, own in files.items():
        torch.save({name: saved[name] for name in own}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, own in files.items() for name in own}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index) + "\n")
    (folder / "adapter").mkdir()
    shutil.copy(adapter / "adapter_config.json", folder / "adapter")
    from safetensors.torch import load_file

    torch.save(load_file(adapter / "adapter_model.safetensors"), folder / "adapter/adapter_model.bin")


def figures(plain, work, adapter):
    model = run.load_model(plain, "f64")
    with torch.no_grad():
        base = run.token_nll(model, work["sequence"])[0].tolist()
    model = run.add_lora(model, run.ATTENTION + run.MLP, RANK, ALPHA, b_bound=B_BOUND)
    if not adapter.exists():
        model.float().save_pretrained(adapter)
        (adapter / "README.md").unlink(missing_ok=True)
        config = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": "quantised"}
        config["target_modules"].sort()
        (adapter / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
        return figures(plain, work, adapter)
    with torch.no_grad():
        adapted = run.token_nll(model, work["sequence"])[0].tolist()
    losses, norms = run.train(model, [[[record]] for record in work["records"]], **ADAMW)
    return {"base": {"token_nll": base}, "adapted": {"token_nll": adapted}, "adamw": ADAMW | {"eps": 1e-8, "losses": losses, "grad_norms": norms}}


def make(name, out):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    generator = np.random.default_rng(list(name.encode()))
    weights = {key: torch.tensor(value, dtype=torch.float32).half().float() for key, value in random_weights(generator, **BASE).items()}
    work = {"sequence": generator.integers(3, SIZE[0], 24).tolist()}
    work["records"] = [{"input_ids": generator.integers(3, SIZE[0], 17).tolist()} for _ in range(5)]
    stored, values, settings = FOLDERS[name](weights) if FOLDERS[name] else ({}, {}, {})
    plain = {key: values.get(key, weight) for key, weight in weights.items()}
    left = {key: weight.half() for key, weight in weights.items() if key not in values}
    (folder / "config.json").write_text(json.dumps(config_of(**BASE) | settings, indent=1) + "\n")
    if FOLDERS[name]:
        save_file({key: tensor.contiguous() for key, tensor in (stored | left).items()}, folder / "model.safetensors", metadata={"format": "pt"})
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        (scratch / "config.json").write_text(json.dumps(config_of(**BASE)))
        save_file({key: value.contiguous() for key, value in plain.items()}, scratch / "model.safetensors", metadata={"format": "pt"})
        found = figures(scratch, work, out / "adapter")
    if name == "pytorch":
        write_pytorch(folder, left, out / "adapter")
    digests = {key: hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest() for key, value in plain.items() if value.ndim == 2}
    document = {"lora": {"r": RANK, "alpha": ALPHA}, "input_ids": work["sequence"]} | found | {"sha256": digests}
    document["adamw"]["records"] = work["records"]
    (folder / "expected.json").write_text(json.dumps(document) + "\n")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{name}: {size / 1000:.0f} KB; losses {found['adamw']['losses']}")


def main():
    here = pathlib.Path(__file__).resolve().parent
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=pathlib.Path, default=here.parents[1] / "tests/fixtures/reference/quantised")
    arguments.add_argument("names", nargs="*")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    for name in options.names or FOLDERS:
        make(name, options.out)


if __name__ == "__main__":
    main()
