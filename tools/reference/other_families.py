#!/usr/bin/env python3
"""Tiny random models of every family that are no fixtures, put through the program, and compared with transformers and PEFT.

    python tools/reference/other_families.py --program target/release/graftling [--folder DIR] [NAME ...]

The fixtures (make_families.py) are what graftling was built against; these have other shapes: odd numbers of heads, one key/value head,
heads wider or narrower than hidden / heads, sizes that are no multiples of four, other windows and rotations, biases on and off.
Compared, from the folder and, where GGUF can say the model, from the file: each token's loss without and with a PEFT adapter, the losses
of five AdamW steps that go on from it, and greedy text. Prints one line a model; the exit code is 1 if one differs.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

import folder_to_gguf
import make_families as fixtures

TOKEN_LOSS, STEP_LOSS = 5e-4, 5e-4
SIZES = dict(
    vocab_size=101,
    hidden_size=36,
    intermediate_size=50,
    num_hidden_layers=3,
    num_attention_heads=3,
    num_key_value_heads=1,
    max_position_embeddings=128,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)


def rope(kind="default", theta=1e4, **more):
    return dict(rope_type=kind, rope_theta=theta, **more)


YARN = rope("yarn", 5e3, factor=2.5, original_max_position_embeddings=12)
LLAMA3 = rope("llama3", 5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
LONG = rope("longrope", 1e4, short_factor=[1.0, 1.1, 1.3], long_factor=[1.0, 1.5, 4.0], partial_rotary_factor=0.5)
IMAGES = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4)

# config class, what differs from SIZES, whether GGUF can say it
MODELS = {
    "llama-odd": (hf.LlamaConfig, dict(hidden_size=30, num_attention_heads=5, head_dim=12, rope_parameters=LLAMA3), False),
    "llama-wide": (hf.LlamaConfig, dict(head_dim=20, tie_word_embeddings=True, attention_bias=True), True),
    "llama-yarn": (hf.LlamaConfig, dict(num_key_value_heads=3, mlp_bias=True, rope_parameters=YARN), False),
    "mistral-wide": (hf.MistralConfig, dict(head_dim=8, hidden_size=28, num_attention_heads=7, sliding_window=3), False),
    "mistral-free": (hf.MistralConfig, dict(sliding_window=None, tie_word_embeddings=True, rope_parameters=rope(theta=1e6)), True),
    "qwen2-untied": (hf.Qwen2Config, dict(rms_norm_eps=1e-5), True),
    "qwen2-window": (hf.Qwen2Config, dict(use_sliding_window=True, sliding_window=4, max_window_layers=2, rope_parameters=YARN), False),
    "qwen3-bias": (hf.Qwen3Config, dict(head_dim=12, attention_bias=True, tie_word_embeddings=True), False),
    "qwen3-untied": (hf.Qwen3Config, dict(head_dim=32, num_attention_heads=5, rope_parameters=rope(theta=1e6)), True),
    "qwen3-window": (
        hf.Qwen3Config,
        dict(head_dim=8, use_sliding_window=True, sliding_window=5, layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
        False,
    ),
    "gemma2-plain": (
        hf.Gemma2Config,
        dict(head_dim=8, query_pre_attn_scalar=11, sliding_window=3, attn_logit_softcapping=None, final_logit_softcapping=None),
        False,
    ),
    "gemma2-wide": (
        hf.Gemma2Config,
        dict(num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2, head_dim=24, query_pre_attn_scalar=24, sliding_window=7,
             attn_logit_softcapping=1.0, final_logit_softcapping=20.0),
        True,
    ),
    "gemma3-long": (hf.Gemma3TextConfig, dict(num_hidden_layers=7, head_dim=20, query_pre_attn_scalar=20, sliding_window=4), True),
    "gemma3-types": (
        hf.Gemma3TextConfig,
        dict(num_hidden_layers=4, head_dim=12, query_pre_attn_scalar=30, sliding_window=6, final_logit_softcapping=5.0, attention_bias=True,
             layer_types=["full_attention", "sliding_attention", "sliding_attention", "full_attention"]),
        False,
    ),
    "gemma3-images": (
        hf.Gemma3Config,
        dict(text_config=SIZES | dict(head_dim=8, query_pre_attn_scalar=8, sliding_window=4), vision_config=IMAGES, mm_tokens_per_image=1,
             image_token_index=100, boi_token_index=99, eoi_token_index=98),
        False,
    ),
    "phi3-long": (
        hf.Phi3Config,
        dict(hidden_size=60, num_attention_heads=5, rope_parameters=LONG, original_max_position_embeddings=12, max_position_embeddings=48),
        True,
    ),
    "phi3-tied": (hf.Phi3Config, dict(num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True), True),
    "smollm3-every": (hf.SmolLM3Config, dict(num_hidden_layers=5, tie_word_embeddings=False), True),
    "smollm3-window": (
        hf.SmolLM3Config,
        dict(num_hidden_layers=4, no_rope_layer_interval=2, use_sliding_window=True, sliding_window=4, attention_bias=True),
        False,
    ),
    "olmo2-tied": (hf.Olmo2Config, dict(tie_word_embeddings=True, rms_norm_eps=1e-6), True),
    "olmo2-bias": (hf.Olmo2Config, dict(num_attention_heads=9, num_key_value_heads=3, attention_bias=True), False),
    "granite-untied": (
        hf.GraniteConfig,
        dict(attention_multiplier=0.2, embedding_multiplier=5.0, residual_multiplier=0.3, logits_scaling=0.5, tie_word_embeddings=False),
        True,
    ),
    "gpt-oss-odd": (
        hf.GptOssConfig,
        dict(hidden_size=64, intermediate_size=32, head_dim=12, sliding_window=3, num_local_experts=5, num_experts_per_tok=3, rms_norm_eps=1e-5,
             rope_parameters=rope("yarn", 15e4, factor=2.5, original_max_position_embeddings=12, beta_fast=32.0, beta_slow=1.0, truncate=False)),
        True,
    ),
    "granite-plain": (hf.GraniteConfig, dict(num_key_value_heads=3, tie_word_embeddings=True, mlp_bias=True), False),
}


def vocabulary(folder, count):
    """A tokenizer whose i-th word is `w<i>`, so that a prompt and an answer are ids."""
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(count)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))


def run(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))}\n{done.stderr}")
    return done.stdout


def records(path, sequences):
    path.write_text("".join(json.dumps({"input_ids": ids, "labels": ids}) + "\n" for ids in sequences))
    return path


def found(program, model, folder, work, device):
    """What the program computes, as `figures` of make_families.py has it."""
    out = {}
    sequence = records(folder / "sequence.jsonl", [work["sequence"]])
    for name, adapter in [("base", []), ("adapted", ["--adapter", folder / "adapter"])]:
        options = ["--model", model, *adapter, *device]
        document = json.loads(run(program, "eval", *options, "--data", sequence, "--json", "--per-token"))
        out[name] = {"token_nll": [value for value in document["examples"][0]["token_nll"] if value is not None]}
        if model.is_dir():
            words = " ".join(f"w{i}" for i in work["prompt"])
            document = json.loads(run(program, "generate", *options, "--prompt", words, "--max-new-tokens", fixtures.NEW_TOKENS, "--json"))
            assert document["prompt_ids"] == work["prompt"], document["prompt_ids"]
            out[name]["greedy"] = document["token_ids"]
    steps = records(folder / "steps.jsonl", [step[0][0]["input_ids"] for step in work["adamw"]])
    with tempfile.TemporaryDirectory() as run_folder:
        hyper = [f"--{key.replace('_', '-')}={value}" for key, value in fixtures.ADAMW.items()]
        run(program, "train", "--model", model, "--data", steps, "--out", run_folder, "--init-adapter", folder / "adapter", "--no-shuffle",
            "--no-packing", "--batch-size=1", "--epochs=1", "--lr-schedule=constant", "--warmup-steps=0", *hyper, *device)
        lines = (pathlib.Path(run_folder) / "metrics.jsonl").read_text().splitlines()
    out["losses"] = [json.loads(line)["loss"] for line in lines if "learning_rate" in line]
    return out


def until_the_end(ids):
    """The program stops at the end token, which it gives as well."""
    end = SIZES["eos_token_id"]
    return ids[: ids.index(end) + 1] if end in ids else ids


def compared(program, name, folder, device):
    """The worst distances of a model, and whether they are small enough."""
    config_class, changes, gguf = MODELS[name]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    generator = np.random.default_rng(list(name.encode()))
    config = config_class(**(changes if "text_config" in changes else SIZES | changes))
    fixtures.random_model(config, generator).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    vocabulary(folder, SIZES["vocab_size"])
    work = fixtures.work_of(generator, 98)
    modules = fixtures.FUSED if config.model_type == "phi3" else fixtures.SEPARATE
    if "text_config" in changes:
        modules = rf".*language_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(fixtures.SEPARATE)})"
    fixtures.figures(folder, fixtures.as_shipped, work, modules, save=True)
    expected, _ = fixtures.figures(folder, fixtures.exact_model, work, modules)
    places = [folder]
    if gguf:
        folder_to_gguf.convert(folder, folder / "model.gguf", ["w", "2", *(f"w{i}" for i in range(2, SIZES["vocab_size"]))])
        places.append(folder / "model.gguf")
    good, words = True, []
    for place in places:
        seen = found(program, place, folder, work, device)
        token = max(fixtures.distance(seen[k]["token_nll"], expected[k]["token_nll"]) for k in ("base", "adapted"))
        step = fixtures.distance(seen["losses"], expected["adamw"]["losses"])
        short = len(seen["losses"]) != fixtures.STEPS or any(len(seen[k]["token_nll"]) != fixtures.LENGTH - 1 for k in ("base", "adapted"))
        text = all(seen[k].get("greedy") in (None, until_the_end(expected[k]["greedy"])) for k in ("base", "adapted"))
        right = token <= TOKEN_LOSS and step <= STEP_LOSS and text and not short
        good &= right
        words.append(f"{place.suffix[1:] or 'folder'}: tokens {token:.1e}, steps {step:.1e}, text {'same' if text else 'DIFFERS'}{'' if right else '  WRONG'}")
    margin = min(expected[k]["margin"] for k in ("base", "adapted"))
    print(f"{name:16} {'; '.join(words)}; margin {margin:.3f}", flush=True)
    return good


def compare_all(description, names, place, compared):
    """Compares what the command line names, by `compared(program, name, folder, device)`, in a folder of this name for temporary files."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--program", default="graftling")
    arguments.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / place)
    arguments.add_argument("--device", help="the program's --device")
    arguments.add_argument("names", nargs="*", choices=[[], *names], default=[])
    options = arguments.parse_args()
    torch.set_num_threads(1)
    device = ["--no-autotune"] + (["--device", options.device] if options.device else [])
    good = [compared(options.program, name, options.folder / name, device) for name in options.names or names]
    sys.exit(not all(good))


if __name__ == "__main__":
    compare_all(__doc__, MODELS, "other-families", compared)
