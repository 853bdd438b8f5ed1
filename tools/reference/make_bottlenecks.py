#!/usr/bin/env python3
"""Bottleneck adapters as AdapterHub's library writes them, with what it computes with them, on the models of the other generators.

    python -m venv hub && hub/bin/pip install adapters==1.3.0 peft torch numpy
    hub/bin/python tools/reference/make_bottlenecks.py [--out tests/fixtures/reference/bottlenecks] [NAME ...]

The library wants a transformers of its own (4.57), so that it needs an environment of its own. Each folder NAME/ holds `adapter/` (every value
away from its start) and `expected.json`: the model, the token losses with the adapter, tokens chosen greedily, and the losses and gradient
norms of five AdamW steps.
"""

import argparse
import json
import math
import pathlib
import shutil

import adapters
import lora_run as run
import torch
from adapters import BnConfig, DoubleSeqBnConfig, ParBnConfig, SeqBnConfig
from transformers import AutoConfig, AutoModelForCausalLM

STEPS, RATE, GREEDY = 5, 3e-3, 8
LLAMA = "tiny/grouped_tied"

ADAPTERS = {
    "houlsby": (LLAMA, DoubleSeqBnConfig(), True),
    "pfeiffer": (LLAMA, SeqBnConfig(), True),
    "parallel": (LLAMA, ParBnConfig(), True),
    "mixed": (
        LLAMA,
        BnConfig(
            mh_adapter=True,
            output_adapter=True,
            reduction_factor={"0": 4, "default": 2.9},
            non_linearity="gelu",
            original_ln_before=True,
            leave_out=[1],
            scaling=0.5,
        ),
        False,
    ),
    "attention_only": (
        LLAMA,
        BnConfig(
            mh_adapter=True,
            output_adapter=False,
            reduction_factor=0.5,
            non_linearity="LeakyReLU",
            original_ln_before=True,
            original_ln_after=False,
            residual_before_ln=False,
        ),
        True,
    ),
    "mistral": ("families/mistral", SeqBnConfig(non_linearity="tanh", reduction_factor=4), True),
    "qwen2": ("families/qwen2", DoubleSeqBnConfig(reduction_factor=8), True),
    "qwen3": ("families/qwen3", ParBnConfig(scaling=1.5, non_linearity="quick_gelu"), True),
    "gemma2": ("families/gemma2", DoubleSeqBnConfig(non_linearity="gelu_new", reduction_factor=8), True),
}


def load(folder):
    config = AutoConfig.from_pretrained(folder)
    # What transformers 5 writes.
    rope = getattr(config, "rope_parameters", None)
    assert rope is None or rope == {"rope_theta": config.rope_theta, "rope_type": "default"}, rope
    return AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def randomise(model, seed):
    """Every trained value moved off its start, as large as the weights are."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * (0.2 if name.endswith("bias") else 0.7 / math.sqrt(parameter.shape[-1])))


def steps(model, records):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses, norms = [], []
    for record in records[:STEPS]:
        optimizer.zero_grad()
        nll, _ = run.token_nll(model, record["input_ids"])
        loss = nll[run.supervised(record)].mean()
        loss.backward()
        losses.append(loss.item())
        norms.append(math.sqrt(sum(float(parameter.grad.pow(2).sum()) for parameter in trained)))
        optimizer.step()
    return losses, norms


def greedy(model, ids):
    """Tokens after `ids`, and how near the second best ever came."""
    ids, margin = list(ids), math.inf
    for _ in range(GREEDY):
        best, second = model(input_ids=torch.tensor([ids])).logits[0, -1].topk(2)[0].tolist()
        margin = min(margin, best - second)
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[-GREEDY:], margin


def make(out, references, model, config, safetensors):
    figures = json.loads((references / model / "expected.json").read_text())
    records, ids = figures["adamw"]["records"], figures["input_ids"]
    torch.manual_seed(7)
    adapted = load(references / model)
    adapters.init(adapted)
    adapted.add_adapter("task", config=config, set_active=True)
    adapted.train_adapter("task")
    adapted.eval()
    randomise(adapted, 11)
    adapted.save_adapter(out / "adapter", "task", with_head=False, use_safetensors=safetensors)
    # No more than tests need: what the library writes for models that it knows by a table of its own.
    (out / "adapter" / "adapter_interface.json").unlink(missing_ok=True)
    path = out / "adapter" / "adapter_config.json"
    saved = json.loads(path.read_text())
    saved["model_name"] = model
    path.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
    adapted.double()
    with torch.no_grad():
        nll = run.token_nll(adapted, ids)[0].tolist()
        tokens, margin = greedy(adapted, ids[:9])
    losses, norms = steps(adapted, records)
    expected = {
        "model": model,
        "learning_rate": RATE,
        "input_ids": ids,
        "token_nll": nll,
        "greedy": {"prompt": ids[:9], "token_ids": tokens, "margin": margin},
        "losses": losses,
        "grad_norms": norms,
    }
    (out / "expected.json").write_text(json.dumps(expected) + "\n")


def main():
    here = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/reference"
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=here / "bottlenecks")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, (model, config, safetensors) in ADAPTERS.items():
        if arguments.names and name not in arguments.names:
            continue
        out = arguments.out / name
        shutil.rmtree(out, ignore_errors=True)
        (out / "adapter").mkdir(parents=True)
        make(out, here, model, config, safetensors)
        print(name)


if __name__ == "__main__":
    main()
