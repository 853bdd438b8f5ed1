#!/usr/bin/env python3
"""Routers of experts that are trained as a whole, without and with the load balancing loss, on the models of make_families.py.

    python tools/reference/make_routers.py [--out tests/fixtures/reference/routers] [NAME ...]

Each folder holds `adapter/` as PEFT saves it (attention, r 2, and `modules_to_save` gate, in gpt-oss router, all away from their starts), `adapter_lora/` with LoRA of the
routers in its place (`target_parameters`), `expected.json` and `expected.safetensors`: token losses, and by the coefficient of the load balancing loss (0 and 0.1; with LoRA 0.1) the loss of two micro-batches of one step,
its gradients, and five AdamW steps of one record each. Figures are f64's. What transformers itself gives for `output_router_logits`, with
padding and without, is compared with them here.
"""

import argparse
import json
import math
import pathlib
import shutil

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

import lora_run as run
import make_families as families

NAMES = ["mixtral", "qwen2_moe", "qwen3_moe", "qwen3_moe_mixed", "gpt_oss"]
COEFFICIENT = 0.1
RANK, ALPHA, B_BOUND, ROUTER_BOUND = 2, 4, 0.25, 0.05
ADAMW = {"learning_rate": 3e-3, "weight_decay": 0.1, "max_grad_norm": 5.0}
# That no choice of a router is as good as another, in f32 as in f64.
SAFE = 5e-4


def own_name(name, model_type):
    """A trained tensor by graftling's name."""
    name = name[name.index("layers.") :].replace(".modules_to_save.default", "").replace(".default.weight", "")
    if model_type == "mixtral" and ".gate." in name:
        name = name.replace(".mlp.", ".block_sparse_moe.")
    return name.replace("lora_A", "lora_a").replace("lora_B", "lora_b")


def trained(model):
    model_type = model.base_model.model.config.model_type
    return {own_name(name, model_type): p for name, p in model.named_parameters() if p.requires_grad}


def add_adapter(model, lora=False):
    router = "router" if model.config.model_type in families.TOGETHER else "gate"
    routers = dict(target_parameters=[f"{router}.weight"]) if lora else dict(modules_to_save=[router])
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=run.ATTENTION, task_type="CAUSAL_LM", **routers)
    model = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in trained(model).items():
            rows, columns = parameter.shape if parameter.ndim == 2 else (len(parameter), 1)
            is_router = name.endswith(("gate.weight", "router.weight", "router.bias"))
            bound = ROUTER_BOUND if is_router else 1.0 / math.sqrt(columns) if name.endswith("lora_a") else B_BOUND
            change = torch.from_numpy(run.hashed_uniform(name, rows, columns, bound)).reshape(parameter.shape)
            parameter.copy_(parameter + change if is_router else change)
    return model.eval()


class Figures:
    """Losses of a model with what its routers give, and the smallest distance of a chosen logit from one that is not."""

    def __init__(self, model):
        self.model, self.gap = model, float("inf")
        routers = [m for m in model.modules() if type(m).__name__.endswith("TopKRouter")]
        self.chosen, self.experts = routers[0].top_k, routers[0].num_experts

    def run(self, ids):
        """`token_nll`, and the logits of each layer's router."""
        out = self.model(torch.tensor([ids]), use_cache=False, output_router_logits=True)
        nll = torch.logsumexp(out.logits[0, :-1], -1) - out.logits[0, :-1].gather(1, torch.tensor(ids)[1:, None])[:, 0]
        for logits in out.router_logits:
            largest = logits.detach().sort(descending=True).values
            self.gap = min(self.gap, float((largest[:, self.chosen - 1] - largest[:, self.chosen]).min()))
        return nll, out.router_logits

    def balance(self, sequences):
        """transformers' load_balancing_loss_func in the precision of the logits: the logits of each sequence by layers."""
        logits = torch.cat([torch.cat(layers) for layers in zip(*sequences)])
        p = logits.softmax(-1)
        counts = torch.zeros(self.experts, dtype=p.dtype).scatter_add_(
            0, p.topk(self.chosen).indices.reshape(-1), torch.ones(p.shape[0] * self.chosen, dtype=p.dtype)
        )
        return self.experts * (counts / p.shape[0] * p.mean(0)).sum()

    def step(self, micro_batches, coefficient):
        """Gradients of one optimizer step; token loss and the load balancing loss of each micro-batch, as the Trainer adds them up."""
        for parameter in trained(self.model).values():
            parameter.grad = None
        total = sum(len(ids) - 1 for batch in micro_batches for ids in batch)
        token_loss, balances = 0.0, []
        for batch in micro_batches:
            parts = [self.run(ids) for ids in batch]
            tokens = sum(nll.sum() for nll, _ in parts) / total
            balance = self.balance([logits for _, logits in parts])
            (tokens + coefficient * balance).backward()
            token_loss += tokens.item()
            balances.append(balance.item())
        norm = math.sqrt(sum(float(p.grad.double().pow(2).sum()) for p in trained(self.model).values()))
        return token_loss, balances, norm

    def train(self, records, coefficient):
        parameters = list(trained(self.model).values())
        decay = dict(lr=ADAMW["learning_rate"], weight_decay=ADAMW["weight_decay"])
        optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.999), eps=1e-8, **decay)
        out = {"losses": [], "balances": [], "grad_norms": []}
        for ids in records:
            loss, balances, norm = self.step([[ids]], coefficient)
            for key, value in zip(out, (loss, balances[0], norm)):
                out[key].append(value)
            torch.nn.utils.clip_grad_norm_(parameters, ADAMW["max_grad_norm"])
            optimizer.step()
        return out


def check_transformers(folder, micro_batch, expected):
    """The loss that transformers as shipped gives for these sequences in one batch, padded and masked, is the one that is expected."""
    model = PeftModel.from_pretrained(families.as_shipped(folder.model), folder.out / "adapter")
    model.base_model.model.router_aux_loss_coef = COEFFICIENT
    longest = max(map(len, micro_batch))
    pad = lambda ids, value: ids + [value] * (longest - len(ids))
    ids = torch.tensor([pad(ids, 0) for ids in micro_batch])
    mask = torch.tensor([pad([1] * len(ids), 0) for ids in micro_batch])
    labels = torch.tensor([pad(ids, -100) for ids in micro_batch])
    with torch.no_grad():
        out = model(ids, attention_mask=mask, labels=labels, use_cache=False, output_router_logits=True)
        plain = model(ids, attention_mask=mask, labels=labels, use_cache=False)
    assert abs(float(out.aux_loss) - expected) < 1e-5, (float(out.aux_loss), expected)
    assert abs(float(out.loss - plain.loss) - COEFFICIENT * expected) < 1e-5
    print(f"  transformers: aux loss {float(out.aux_loss):.6f}, here {expected:.6f}")


class Folder:
    def __init__(self, name, root, out):
        self.model, self.out = root / "families" / name, out / name


def make(name, folder):
    shutil.rmtree(folder.out, ignore_errors=True)
    folder.out.mkdir(parents=True)
    generator = np.random.default_rng(list(f"{name} router".encode()))
    vocab = families.SIZES["vocab_size"]
    sequence = families.tokens(generator, vocab, families.LENGTH)
    micro_batches = [[families.tokens(generator, vocab, n) for n in lengths] for lengths in ((9, 17), (13,))]
    records = [families.tokens(generator, vocab, n) for n in (17, 13, 21, 11, 17)]

    for lora, kind in ((False, "adapter"), (True, "adapter_lora")):
        add_adapter(families.as_shipped(folder.model), lora).save_pretrained(folder.out / kind)
        (folder.out / kind / "README.md").unlink(missing_ok=True)
        path = folder.out / kind / "adapter_config.json"
        config = json.loads(path.read_text()) | {"base_model_name_or_path": f"families/{name}"}
        config["target_modules"].sort()
        path.write_text(json.dumps(config, indent=1) + "\n")

    document = {"input_ids": sequence, "micro_batches": micro_batches, "coefficient": COEFFICIENT}
    document["adamw"] = {"records": records, "betas": [0.9, 0.999], "eps": 1e-8} | ADAMW
    tensors = {}
    for group, coefficient, lora in (("plain", 0.0, False), ("balanced", COEFFICIENT, False), ("lora", COEFFICIENT, True)):
        figures = Figures(add_adapter(families.exact_model(folder.model), lora))
        with torch.no_grad():
            nll = figures.run(sequence)[0].tolist()
        loss, balances, norm = figures.step(micro_batches, coefficient)
        document[group] = {"token_nll": nll, "loss": loss, "balances": balances, "grad_norm": norm}
        tensors |= {f"{group}.gradients.{n}": p.grad.clone() for n, p in trained(figures.model).items()}
        document[group]["adamw"] = figures.train(records, coefficient)
        tensors |= {f"{group}.adamw.{n}": p.detach().clone() for n, p in trained(figures.model).items()}
        assert figures.gap > SAFE, f"{name}: a router's choice is not safe: {figures.gap}"
        print(f"{name} {group}: loss {loss:.4f}, balances {balances}, gap {figures.gap:.4f}")
    check_transformers(folder, micro_batches[0], document["balanced"]["balances"][0])
    (folder.out / "expected.json").write_text(json.dumps(document) + "\n")
    save_file(run.as_f32(tensors), folder.out / "expected.safetensors")


def main():
    here = pathlib.Path(__file__).resolve().parent
    fixtures = here.parents[1] / "tests/fixtures/reference"
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=pathlib.Path, default=fixtures / "routers")
    arguments.add_argument("names", nargs="*", choices=[[], *NAMES], default=[])
    options = arguments.parse_args()
    torch.set_num_threads(1)
    for name in options.names or NAMES:
        make(name, Folder(name, fixtures, options.out))


if __name__ == "__main__":
    main()
