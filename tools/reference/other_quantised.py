#!/usr/bin/env python3
"""Tiny folders that the libraries themselves quantised and wrote, put through the program, and compared with what the libraries read from them.

    python tools/reference/other_quantised.py --program target/release/graftling [--folder DIR] [NAME ...]

The fixtures (make_quantised.py, make_bitsandbytes.py) are what graftling was built against, and some of their codes are packed by our own
formulas; here every folder is written by its library, in other sizes and settings. Compared: every matrix that `graftling export --to safetensors
--type f32` writes, bit by bit with the library's; each token's loss; and for bitsandbytes in NF4 the losses of five steps of PEFT's QLoRA
(of rows that are whole blocks of 64: where blocks cross rows, bitsandbytes' kernel for CPUs multiplies by other numbers than it dequantises to).
Prints one line a folder; the exit code is 1 if one differs. A library that is not installed is named, and its folders are left out. Needs
compressed-tensors, mlx[cpu], mlx-lm, gptqmodel and autoawq (the last two from source, without their dependencies) besides requirements.txt.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import shutil
import sys
import tempfile
import types

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # bitsandbytes would compile what is run once

import numpy as np
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

import lora_run
from make_tiny import config_of, random_weights
from other_families import records, run, vocabulary

TOKEN_LOSS, STEP_LOSS = 5e-4, 5e-4
SIZE = (101, 128, 320, 2, 4, 2)
ODD = (101, 96, 224, 2, 3, 1)
WIDE = (101, 192, 448, 2, 3, 1)
LEARNING_RATE, STEPS = 2e-3, 5


def base(folder, size=SIZE, dtype=torch.bfloat16, tie=False):
    """A plain model to be quantised."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(list(str(size).encode()))
    settings = dict(size=size, tie=tie, dtype=dtype)
    weights = {key: torch.tensor(value, dtype=torch.float32).to(dtype) for key, value in random_weights(generator, **settings).items()}
    (folder / "config.json").write_text(json.dumps(config_of(**settings)))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def bitsandbytes(settings, size=SIZE, trained=False):
    def make(work, folder):
        import make_bitsandbytes as fixtures

        model = fixtures.quantised(base(work / "base", size), hf.BitsAndBytesConfig(**settings))
        model.save_pretrained(folder)
        values = fixtures.dequantised(fixtures.quantised_again(folder))
        plain = {key: value.float() for key, value in load_file(work / "base/model.safetensors").items()}
        if not trained:
            return plain | values, None
        sequences = [np.random.default_rng(step).integers(3, size[0], 20 + step).tolist() for step in range(STEPS)]
        adapted = lora_run.add_lora(model, lora_run.ATTENTION + lora_run.MLP, 4, 8, b_bound=0.25)
        adapted.save_pretrained(work / "adapter")
        adapted.train()
        losses, _ = lora_run.train(adapted, [[[{"input_ids": ids}]] for ids in sequences], LEARNING_RATE)
        return plain | values, (sequences, losses)

    return make


def fp8(rows, columns, size=SIZE):
    """Codes by our formula, since transformers quantises to FP8 on GPUs only; values as transformers reads them."""

    def make(work, folder):
        from make_quantised import fp8 as codes_of

        _, plain, config = plain_model(work, size, torch.bfloat16)
        stored, _ = codes_of(plain, lambda weight: (rows, columns), "_scale_inv", lambda scale: scale.shape)
        settings = {"weight_block_size": [rows, columns], "activation_scheme": "dynamic"}
        config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "modules_to_not_convert": ["lm_head"]} | settings
        write(folder, plain, torch.bfloat16, stored, config)
        read = hf.FineGrainedFP8Config(dequantize=True, **settings)
        model = hf.AutoModelForCausalLM.from_pretrained(folder, quantization_config=read, dtype=torch.float32, device_map="cpu")
        return {key: value.float() for key, value in model.state_dict().items()}, None

    return make


def linears(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name != "lm_head"}


def plain_model(work, size, dtype):
    source = base(work / "base", size, dtype)
    plain = {key: value.float() for key, value in load_file(source / "model.safetensors").items()}
    return hf.AutoModelForCausalLM.from_pretrained(source, dtype=dtype, device_map="cpu"), plain, json.loads((source / "config.json").read_text())


def write(folder, plain, dtype, stored, config):
    """The layers as stored, and all else in the model's type."""
    folder.mkdir()
    left = {key: value.to(dtype) for key, value in plain.items() if f"{key.removesuffix('.weight')}.qweight" not in stored and key not in stored}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({key: value.contiguous() for key, value in (left | stored).items()}, folder / "model.safetensors", metadata={"format": "pt"})


def compressed(form="pack-quantized", size=SIZE, dtype=torch.bfloat16, **settings):
    def make(work, folder):
        from compressed_tensors.compressors import ModelCompressor, decompress_module
        from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme, apply_quantization_config
        from compressed_tensors.quantization.utils import calculate_qparams

        model, plain, _ = plain_model(work, size, dtype)
        args = QuantizationArgs(**settings)
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"]))
        for module in linears(model).values():
            group = args.group_size or module.in_features
            parts = module.weight.detach().unflatten(1, (-1, group))
            scale, zero = calculate_qparams(parts.amin(-1), parts.amax(-1), args)
            module.weight_scale.data = scale.to(module.weight_scale.dtype).reshape(module.weight_scale.shape)
            if hasattr(module, "weight_zero_point"):
                module.weight_zero_point.data = zero.to(module.weight_zero_point.dtype).reshape(module.weight_zero_point.shape)
        compressor = ModelCompressor.from_pretrained_model(model, form)
        compressor.compress_model(model)
        stored = {key: value for key, value in model.state_dict().items()}
        folder.mkdir()
        model.config.save_pretrained(folder)
        compressor.update_config(str(folder))
        save_file({key: value.contiguous() for key, value in stored.items()}, folder / "model.safetensors", metadata={"format": "pt"})
        for name, module in model.named_modules():
            if hasattr(module, "quantization_scheme"):
                module.weight_scale.data = module.weight_scale.data.float()
                decompress_module(module)
                plain[f"{name}.weight"] = module.weight.detach().float()
        return plain, None

    return make


def gptq(bits, group, symmetric, second_form=False, act_order=False, size=SIZE):
    """Packed, converted to the first form, and dequantised by GPTQModel's layer; codes are rounded to the nearest, without calibration."""

    def make(work, folder):
        from gptqmodel.nn_modules.qlinear.torch import TorchLinear
        from gptqmodel.quantization import FORMAT
        from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module
        from make_quantised import affine

        model, plain, config = plain_model(work, size, torch.float16)
        generator, stored = torch.Generator().manual_seed(3), {}
        for name, module in linears(model).items():
            out, columns = module.weight.shape
            own = columns if group == -1 else group
            order = torch.randperm(columns, generator=generator) if act_order else torch.arange(columns)
            group_of = torch.empty(columns, dtype=torch.int32)
            group_of[order] = (torch.arange(columns) // own).int()
            # Of the first form no zero point is 0, which it stores as -1: libraries differ in what they read from that.
            _, scales, zeros = affine(module.weight.detach().float()[:, order], bits, group, symmetric, torch.float16, first_zero=int(not second_form))
            layer = TorchLinear(bits, group, symmetric, act_order, columns, out, format=FORMAT.GPTQ_V2 if second_form else FORMAT.GPTQ)
            layer.pack_original(module.float(), scales.float(), zeros.float(), group_of)
            layer.post_init()
            halves, layer.scales = layer.scales, layer.scales.float()
            plain[f"{name}.weight"] = layer.dequantize_weight().T.float()
            layer.scales = halves
            if not second_form:
                convert_gptq_v2_to_v1_format_module(layer, types.SimpleNamespace(bits=bits, pack_dtype=torch.int32))
            stored |= {f"{name}.{part}": getattr(layer, part).clone() for part in ("qweight", "qzeros", "scales", "g_idx")}
        config["quantization_config"] = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": act_order, "sym": symmetric,
                                         "lm_head": False, "pack_dtype": "int32", "checkpoint_format": "gptq_v2" if second_form else "gptq"}
        write(folder, plain, torch.float16, stored, config)
        return plain, None

    return make


def awq(group, size=SIZE):
    """Packed and dequantised by AutoAWQ's layer, of which the package as a whole needs an older transformers."""

    def make(work, folder):
        if "awq" not in sys.modules:
            found = importlib.util.find_spec("awq")
            if found is None:
                raise ImportError("autoawq is not installed")
            for part in ("awq", "awq.modules", "awq.modules.linear"):
                sys.modules[part] = types.ModuleType(part)
                sys.modules[part].__path__ = [str(pathlib.Path(found.submodule_search_locations[0], *part.split(".")[1:]))]
        from awq.modules.linear.gemm import WQLinear_GEMM
        from awq.utils.packing_utils import dequantize_gemm
        from make_quantised import affine

        model, plain, config = plain_model(work, size, torch.float16)
        stored = {}
        for name, module in linears(model).items():
            _, scales, zeros = affine(module.weight.detach().float(), 4, group, False, torch.float16)
            layer = WQLinear_GEMM.from_linear(module, 4, group, scales=scales.T.contiguous(), zeros=zeros.T.contiguous())
            plain[f"{name}.weight"] = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales.float(), 4, group).T.float()
            stored |= {f"{name}.{part}": getattr(layer, part).clone() for part in ("qweight", "qzeros", "scales")}
        config["quantization_config"] = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": group, "zero_point": True,
                                         "modules_to_not_convert": ["lm_head"]}
        write(folder, plain, torch.float16, stored, config)
        return plain, None

    return make


def mlx(size=SIZE, dtype="bfloat16", predicate=None, **settings):
    def make(work, folder):
        import mlx.core as mx
        from mlx_lm import convert

        source = base(work / "base", size)
        vocabulary(source, size[0])
        (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
        convert(str(source), mlx_path=str(folder), quantize=True, dtype=dtype, quant_predicate=predicate, **settings)
        stored = mx.load(str(folder / "model.safetensors"))
        config = json.loads((folder / "config.json").read_text())["quantization"]
        values = {}
        for name, array in stored.items():
            module = name.removesuffix(".weight")
            if f"{module}.scales" in stored and name.endswith(".weight"):
                own = config | config.get(module, {})
                scales, biases = (stored[f"{module}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
                array = mx.dequantize(array, scales, biases, group_size=own["group_size"], bits=own["bits"])
            if not name.endswith((".scales", ".biases")):
                values[name] = torch.from_numpy(np.array(array.astype(mx.float32)))
        return values, None

    return make


FOUR = dict(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
FOLDERS = {
    "bnb-nf4": bitsandbytes(FOUR | dict(bnb_4bit_quant_type="nf4"), trained=True),
    "bnb-nf4-double": bitsandbytes(FOUR | dict(bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True), trained=True),
    "bnb-nf4-double-wide": bitsandbytes(FOUR | dict(bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True), WIDE, trained=True),
    "bnb-fp4": bitsandbytes(FOUR | dict(bnb_4bit_quant_type="fp4"), ODD),
    "bnb-fp4-double": bitsandbytes(FOUR | dict(bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=True)),
    "bnb-int8": bitsandbytes(dict(load_in_8bit=True), ODD),
    "bnb-int8-skips": bitsandbytes(dict(load_in_8bit=True, llm_int8_skip_modules=["lm_head", "down_proj"])),
    "bnb-nf4-skips": bitsandbytes(FOUR | dict(bnb_4bit_quant_type="nf4", llm_int8_skip_modules=["lm_head", "k_proj"])),
    "fp8-blocks": fp8(64, 64),
    "fp8-blocks-odd": fp8(32, 32, ODD),
    "gptq-4": gptq(4, 128, True),
    "gptq-4-small": gptq(4, 32, False, size=ODD),
    "gptq-4-act-order": gptq(4, 64, False, act_order=True),
    "gptq-4-v2": gptq(4, 64, False, second_form=True),
    "gptq-4-rows": gptq(4, -1, True),
    "gptq-3": gptq(3, 32, False, size=ODD),
    "gptq-3-act-order": gptq(3, 64, True, act_order=True),
    "gptq-2": gptq(2, 32, False),
    "gptq-2-v2": gptq(2, 64, False, second_form=True),
    "gptq-8": gptq(8, 32, False, size=ODD),
    "gptq-8-act-order-v2": gptq(8, 128, True, second_form=True, act_order=True),
    "awq-32": awq(32, size=ODD),
    "awq-64": awq(64),
    "compressed-4": compressed(num_bits=4, type="int", symmetric=True, strategy="group", group_size=32),
    "compressed-4-asymmetric": compressed(num_bits=4, type="int", symmetric=False, strategy="group", group_size=64, dtype=torch.float16),
    "compressed-4-channel": compressed(num_bits=4, type="int", symmetric=True, strategy="channel", size=ODD),
    "compressed-8": compressed(num_bits=8, type="int", symmetric=True, strategy="group", group_size=32, size=ODD),
    "compressed-fp8": compressed("naive-quantized", num_bits=8, type="float", symmetric=True, strategy="channel"),
    "mlx-4": mlx(q_bits=4, q_group_size=32),
    "mlx-3": mlx(q_bits=3, q_group_size=64, dtype="float16"),
    "mlx-6": mlx(q_bits=6, q_group_size=32, size=ODD),
    "mlx-2": mlx(q_bits=2, q_group_size=32, dtype="float16", size=ODD),
    "mlx-mixed": mlx(q_bits=4, q_group_size=64, predicate="mixed_3_6"),
}


def compared(program, name, folder, device):
    """Whether the program reads of a folder what its library does."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        values, trained = FOLDERS[name](folder, folder / "model")
    except ImportError as missing:
        print(f"{name:24} left out: {missing}", flush=True)
        return True
    except Exception as problem:  # of a library: the others are to be compared all the same
        print(f"{name:24} could not be made: {type(problem).__name__}: {problem}", flush=True)
        return False
    model, plain = folder / "model", folder / "plain"
    vocabulary(model, json.loads((model / "config.json").read_text())["vocab_size"])
    run(program, "export", "--model", model, "--to", "safetensors", "--type", "f32", "--out", folder / "f32")
    found = load_file(folder / "f32/model.safetensors")
    names = [key for key in values if values[key].ndim == 2]
    wrong = [key for key in names if key not in found or not torch.equal(found[key] + 0.0, values[key] + 0.0)]
    plain.mkdir()
    config = json.loads((model / "config.json").read_text())
    for key in ("quantization_config", "quantization"):
        config.pop(key, None)
    (plain / "config.json").write_text(json.dumps(config))
    save_file({key: value.contiguous() for key, value in values.items()}, plain / "model.safetensors", metadata={"format": "pt"})
    sequence = np.random.default_rng(7).integers(3, config["vocab_size"], 40).tolist()
    with torch.no_grad():
        expected = lora_run.token_nll(lora_run.load_model(plain, "f64"), sequence)[0].numpy()
    data = records(folder / "sequence.jsonl", [sequence])
    document = json.loads(run(program, "eval", "--model", model, "--data", data, "--json", "--per-token", *device))
    nll = np.array([value for value in document["examples"][0]["token_nll"] if value is not None])
    token = float(np.abs(nll - expected).max())
    words, good = [f"{len(names) - len(wrong)} of {len(names)} matrices alike", f"tokens {token:.1e}"], not wrong and token <= TOKEN_LOSS
    if trained:
        sequences, losses = trained
        steps = records(folder / "steps.jsonl", sequences)
        with tempfile.TemporaryDirectory() as run_folder:
            options = ["--no-shuffle", "--no-packing", "--batch-size=1", "--epochs=1", "--lr-schedule=constant", "--warmup-steps=0",
                       f"--learning-rate={LEARNING_RATE}", "--weight-decay=0", "--max-grad-norm=0"]
            run(program, "train", "--model", model, "--data", steps, "--out", run_folder, "--init-adapter", folder / "adapter", *options, *device)
            lines = (pathlib.Path(run_folder) / "metrics.jsonl").read_text().splitlines()
        own = [json.loads(line)["loss"] for line in lines if "learning_rate" in line]
        step = max(abs(a - b) for a, b in zip(own, losses)) if len(own) == len(losses) else float("inf")
        words.append(f"{len(own)} QLoRA steps {step:.1e}")
        good &= step <= STEP_LOSS
    print(f"{name:24} {', '.join(words)}{'' if good else '  WRONG ' + ' '.join(wrong[:3])}", flush=True)
    return good


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--program", default="graftling")
    arguments.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / "other-quantised")
    arguments.add_argument("--device", help="the program's --device")
    arguments.add_argument("names", nargs="*", choices=[[], *FOLDERS], default=[])
    options = arguments.parse_args()
    torch.set_num_threads(1)
    hf.utils.logging.disable_progress_bar()
    device = ["--no-autotune"] + (["--device", options.device] if options.device else [])
    good = [compared(options.program, name, options.folder / name, device) for name in options.names or FOLDERS]
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
