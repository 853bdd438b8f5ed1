#!/usr/bin/env python3
"""Tiny random Llama models with everything that PyTorch and PEFT compute on them, for tests to compare with.

    python tools/reference/make_tiny.py [--out tests/fixtures/reference/tiny]

Each folder is a Hugging Face model folder, a PEFT adapter folder `adapter/` (all seven projections, B not zero, so that the
gradient of A is not zero either) and the expected figures. tests/fixtures/reference/README.md says what they hold.
"""

import argparse
import json
import pathlib
import shutil

import numpy as np
import torch
from safetensors.torch import save_file

import lora_run as run

RANK, ALPHA, B_BOUND = 4, 8, 0.25
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}

# size: vocab, hidden, intermediate, layers, heads, key-value heads. max_grad_norm: clips some of the ten steps and not others
# (clipping all of them by about the same factor would be invisible behind AdamW).
FIXTURES = {
    "grouped_tied": dict(size=(96, 32, 64, 3, 4, 2), tie=True, length=24, max_grad_norm=14.0),
    "mha_untied": dict(size=(101, 32, 56, 2, 4, 4), tie=False, length=24, max_grad_norm=7.0, shards=2),
    "llama3_rope": dict(size=(96, 32, 64, 2, 2, 1), tie=True, length=80, max_grad_norm=10.0, rope=LLAMA3),
    "wide_heads": dict(
        size=(96, 40, 72, 2, 4, 2), tie=True, length=24, max_grad_norm=13.0, head_dim=16, dtype=torch.float16, new_rope_keys=True
    ),
    "bf16": dict(size=(97, 48, 80, 2, 3, 1), tie=True, length=24, max_grad_norm=15.0, dtype=torch.bfloat16),
}


def config_of(size, tie, rope=None, head_dim=None, new_rope_keys=False, dtype=torch.float32, **_):
    vocab, hidden, intermediate, layers, heads, key_value_heads = size
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tie,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    if head_dim:
        config["head_dim"] = head_dim
    if new_rope_keys:  # as transformers 5 writes it
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
    else:
        config["rope_theta"] = 10000.0
        config["rope_scaling"] = {"rope_type": "llama3", **rope} if rope else None
    return config


def random_weights(generator, size, tie, head_dim=None, **_):
    """Large enough that the softmax and SwiGLU are far from linear: matrices of scale 1.5/sqrt(in), norms around 1."""
    vocab, hidden, intermediate, layers, heads, key_value_heads = size
    head_dim = head_dim or hidden // heads

    def matrix(out_features, in_features, scale=1.5):
        return generator.normal(0.0, scale / np.sqrt(in_features), (out_features, in_features))

    def norm():
        return 1.0 + 0.2 * generator.normal(size=hidden)

    weights = {"model.embed_tokens.weight": generator.normal(0.0, 0.5, (vocab, hidden)), "model.norm.weight": norm()}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        weights[prefix + "self_attn.q_proj.weight"] = matrix(heads * head_dim, hidden)
        weights[prefix + "self_attn.k_proj.weight"] = matrix(key_value_heads * head_dim, hidden)
        weights[prefix + "self_attn.v_proj.weight"] = matrix(key_value_heads * head_dim, hidden)
        weights[prefix + "self_attn.o_proj.weight"] = matrix(hidden, heads * head_dim)
        weights[prefix + "mlp.gate_proj.weight"] = matrix(intermediate, hidden)
        weights[prefix + "mlp.up_proj.weight"] = matrix(intermediate, hidden)
        weights[prefix + "mlp.down_proj.weight"] = matrix(hidden, intermediate)
        weights[prefix + "input_layernorm.weight"] = norm()
        weights[prefix + "post_attention_layernorm.weight"] = norm()
    if not tie:
        weights["lm_head.weight"] = matrix(vocab, hidden, 2.0)
    return weights


def write_model(folder, generator, fixture):
    dtype = fixture.get("dtype", torch.float32)
    weights = {n: torch.tensor(w, dtype=torch.float32).to(dtype) for n, w in random_weights(generator, **fixture).items()}
    (folder / "config.json").write_text(json.dumps(config_of(**fixture), indent=2) + "\n")
    if fixture.get("shards", 1) == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(weights)
    half = len(names) // 2
    weight_map = {}
    for i, part in enumerate((names[:half], names[half:]), 1):
        file = f"model-{i:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(w.numel() * w.element_size() for w in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def tokens(generator, vocab, length):
    return generator.integers(3, vocab, length).tolist()


def masked(generator, vocab, length, mask):
    """A record with labels; `mask` says by position whether it is supervised."""
    ids = tokens(generator, vocab, length)
    return {"input_ids": ids, "labels": [token if mask(i) else run.IGNORED for i, token in enumerate(ids)]}


def work_of(generator, fixture):
    """The inputs of every figure. Lengths include 2, primes, and one that is longer than the rest together."""
    vocab, length = fixture["size"][0], fixture["length"]
    return {
        "sequence": tokens(generator, vocab, length),
        "adamw": [[[{"input_ids": tokens(generator, vocab, 17)}]] for _ in range(10)],
        "accumulation": [
            [masked(generator, vocab, 19, lambda i: i >= 4), masked(generator, vocab, 7, lambda i: i >= 5)],
            [masked(generator, vocab, 11, lambda i: i >= 9)],
        ],
        "sft": [
            masked(generator, vocab, 13, lambda i: i >= 6),  # one prompt, one answer
            masked(generator, vocab, 31, lambda i: 5 <= i < 9 or 20 <= i < 29),  # two turns, and a tail that is not learned
            masked(generator, vocab, 2, lambda i: True),  # one prediction; the label of the first id counts for nothing
            masked(generator, vocab, 9, lambda i: i == 8),  # the last token only
            masked(generator, vocab, 5, lambda i: i == 0),  # nothing to learn: no row of it is supervised
        ],
    }


BETAS = {"betas": [0.9, 0.999], "eps": 1e-8}
ADAMW = {"learning_rate": 5e-3, "weight_decay": 0.1}


def figures(folder, work, precision, max_grad_norm):
    """All figures in one precision: (json part, tensors)."""
    model = run.load_model(folder, precision)
    out, tensors = {}, {}
    with torch.no_grad():
        nll, logits = run.token_nll(model, work["sequence"])
    rows = sorted({0, 1, len(work["sequence"]) // 2, len(work["sequence"]) - 2, len(work["sequence"]) - 1})
    out["base"] = {"token_nll": nll.tolist(), "logits_rows": rows}
    tensors["base.logits"] = logits[rows]

    model = run.add_lora(model, run.ATTENTION + run.MLP, RANK, ALPHA, b_bound=B_BOUND)
    if precision == "f32":
        model.save_pretrained(folder / "adapter")
    start = run.values(model)
    with torch.no_grad():
        nll, logits = run.token_nll(model, work["sequence"])
    out["adapted"] = {"token_nll": nll.tolist(), "logits_rows": rows}
    tensors["adapted.logits"] = logits[rows]

    def gradients_of(name, micro_batches):
        loss, all_nll = run.backward_step(model, micro_batches)
        counts = [sum(int(run.supervised(s).sum()) for s in batch) for batch in micro_batches]
        out[name] = {"loss": loss, "grad_norm": run.gradient_norm(model), "supervised_tokens": counts}
        if name == "sft":
            out[name]["token_nll"] = all_nll
        tensors.update({f"{name}.{n}": g for n, g in run.gradients(model).items()})

    gradients_of("gradients", [[{"input_ids": work["sequence"]}]])
    gradients_of("accumulation", work["accumulation"])
    gradients_of("sft", [work["sft"]])

    losses, norms = run.train(model, work["adamw"], max_grad_norm=max_grad_norm, **ADAMW)
    out["adamw"] = {"losses": losses, "grad_norms": norms}
    tensors.update({f"adamw.{n}": v for n, v in run.values(model).items()})
    out["adamw"]["largest_relative_move"] = run.worst_relative_l2(run.values(model), start)

    # the same start tensors, but only those of the last layer's MLP: backward ends there
    model = run.load_model(folder, precision)
    layer = model.config.num_hidden_layers - 1
    model = run.add_lora(model, run.MLP, RANK, ALPHA, layers=[layer], b_bound=B_BOUND)
    gradients_of("last_layer_mlp", [work["sft"]])
    return out, tensors


def floor_of(single, double):
    """How far transformers and PEFT in f32 are from f64: absolute for losses and logits, relative L2 for tensors."""
    (left, left_tensors), (right, right_tensors) = single, double

    def distance(a, b):
        return max((abs(x - y) for x, y in zip(a, b) if x is not None), default=0.0)

    floor = {
        "token_nll": max(distance(left[k]["token_nll"], right[k]["token_nll"]) for k in ("base", "adapted")),
        "sft_token_nll": max(distance(a, b) for a, b in zip(left["sft"]["token_nll"], right["sft"]["token_nll"])),
        "adamw_losses": distance(left["adamw"]["losses"], right["adamw"]["losses"]),
        "logits": max(float((left_tensors[k] - right_tensors[k]).abs().max()) for k in ("base.logits", "adapted.logits")),
    }
    for group in ("gradients", "accumulation", "sft", "adamw", "last_layer_mlp"):
        names = [n for n in right_tensors if n.startswith(group + ".")]
        pick = lambda tensors: {n: tensors[n] for n in names}
        floor[f"{group}_tensors"] = run.worst_relative_l2(pick(left_tensors), pick(right_tensors))
    return floor


def make(name, fixture, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    generator = np.random.default_rng(list(name.encode()))
    write_model(folder, generator, fixture)
    work = work_of(generator, fixture)
    max_grad_norm = fixture["max_grad_norm"]
    single, double = (figures(folder, work, precision, max_grad_norm) for precision in ("f32", "f64"))
    expected, tensors = double
    expected["accumulation"]["micro_batches"] = work["accumulation"]
    expected["sft"]["records"] = work["sft"]
    expected["adamw"] |= {"records": [step[0][0] for step in work["adamw"]], "max_grad_norm": max_grad_norm} | BETAS | ADAMW
    floor = floor_of(single, double)
    document = {"lora": {"r": RANK, "alpha": ALPHA}, "input_ids": work["sequence"]} | expected | {"f32_floor": floor}
    (folder / "expected.json").write_text(json.dumps(document) + "\n")
    save_file(run.as_f32(tensors), folder / "expected.safetensors")
    (folder / "adapter/README.md").unlink(missing_ok=True)
    adapter_config = json.loads((folder / "adapter/adapter_config.json").read_text())
    adapter_config["base_model_name_or_path"] = f"tiny/{name}"
    adapter_config["target_modules"].sort()
    (folder / "adapter/adapter_config.json").write_text(json.dumps(adapter_config, indent=1) + "\n")
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{name}: {size / 1000:.0f} KB; adamw {expected['adamw']['losses'][0]:.4f} -> {expected['adamw']['losses'][-1]:.4f}, "
          f"norms {min(expected['adamw']['grad_norms']):.3f}..{max(expected['adamw']['grad_norms']):.3f}")
    print("   f32 floor:", ", ".join(f"{key} {value:.1e}" for key, value in floor.items()))


def main():
    here = pathlib.Path(__file__).resolve().parent
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=pathlib.Path, default=here.parents[1] / "tests/fixtures/reference/tiny")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    for name, fixture in FIXTURES.items():
        make(name, fixture, options.out / name)


if __name__ == "__main__":
    main()
