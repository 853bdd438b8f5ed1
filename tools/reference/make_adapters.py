#!/usr/bin/env python3
"""Adapters of every kind as PEFT writes them, with what PEFT computes with them, on the models of the other generators.

    python tools/reference/make_adapters.py [--out tests/fixtures/reference/adapters]

Each folder NAME/ holds `adapter/` (what training starts from; for pissa, olora what PEFT converts to a LoRA of the unchanged base after
five steps) and `expected.json`: the model, the token losses with the adapter, and the losses and gradient norms of five AdamW steps. Where
tokens of their own are trained, also the records, in which these tokens occur, and the rows after the steps. `eva/` has what PEFT makes of
batches: the A of each layer, and of how many tokens.
"""

import argparse
import json
import math
import pathlib
import shutil
import tempfile

import torch
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import eva
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import lora_run as run

STEPS, RATE = 5, 3e-3

LLAMA, UNTIED, QWEN, BIASES = "tiny/grouped_tied", "tiny/mha_untied", "families/qwen2", "families/llama_biases"

ADAPTERS = {
    "patterns": dict(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "k_proj", "down_proj"],
        rank_pattern={"q_proj": 2, r"layers.[12].mlp.down_proj": 6},
        alpha_pattern={"self_attn.k_proj": 3, "layers.1.self_attn.q_proj": 5},
    ),
    "rslora": dict(r=4, lora_alpha=8, target_modules=["v_proj", "up_proj"], use_rslora=True, rank_pattern={"up_proj": 2}),
    "regex": dict(r=3, lora_alpha=6, target_modules=r".*layers\.(0\.self_attn\.q_proj|[12]\.mlp\.(gate|up)_proj)"),
    "excluded": dict(r=2, lora_alpha=6, target_modules="all-linear", exclude_modules=r".*layers\.0\..*|.*\.o_proj"),
    "some_layers": dict(r=2, lora_alpha=6, target_modules=["self_attn.o_proj"], layers_to_transform=[0, 2], layers_pattern="layers"),
    "lora_bias": dict(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"], lora_bias=True),
    "orthogonal": dict(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], init_lora_weights="orthogonal"),
    "loraplus": dict(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"]),
    "dora": dict(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"], use_dora=True),
    "dora_rslora": dict(r=4, lora_alpha=6, target_modules=["o_proj", "up_proj"], use_dora=True, use_rslora=True),
    "dora_biases": dict(model=QWEN, r=3, lora_alpha=6, target_modules=["q_proj", "k_proj", "o_proj", "down_proj"], use_dora=True),
    "whole_modules": dict(r=2, lora_alpha=6, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    "whole_output": dict(r=2, lora_alpha=6, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "whole_untied": dict(model=UNTIED, r=2, lora_alpha=6, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    "whole_tying": dict(
        r=2, lora_alpha=6, target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True
    ),
    "norms": dict(r=2, lora_alpha=6, target_modules=["v_proj"], modules_to_save=["norm"]),
    "some_norms": dict(r=2, lora_alpha=6, target_modules=["v_proj"], modules_to_save=["post_attention_layernorm", "model.norm", "embed_tokens"]),
    # The model's own biases are trained too: all of them, and those of adapted layers.
    "biases": dict(model=QWEN, r=2, lora_alpha=6, target_modules=["q_proj", "o_proj"], bias="all"),
    "adapted_biases": dict(model=BIASES, r=2, lora_alpha=6, target_modules=["v_proj", "down_proj"], bias="lora_only", use_dora=True),
    # Rows in another order than their tokens; one matrix for both uses, and two.
    "token_rows": dict(r=2, lora_alpha=6, target_modules=["v_proj"], trainable_token_indices=[84, 23, 55]),
    "token_rows_untied": dict(
        model=UNTIED,
        r=2,
        lora_alpha=6,
        target_modules=["v_proj"],
        trainable_token_indices={"embed_tokens": [9, 47], "lm_head": [47, 18, 29]},
    ),
    # Of a vocabulary that was extended by two tokens, PEFT writes the whole matrices besides.
    "added_tokens": dict(added=2, r=2, lora_alpha=6, target_modules=["v_proj"], trainable_token_indices=[23, 96, 97]),
    "added_tokens_untied": dict(
        added=2,
        model=UNTIED,
        r=2,
        lora_alpha=6,
        target_modules=["v_proj"],
        trainable_token_indices={"embed_tokens": [102, 101], "lm_head": [101, 102]},
    ),
    # Extended, and only the layers trained; and extended, and trained as a whole.
    "added_tokens_frozen": dict(added=2, r=2, lora_alpha=6, target_modules=["v_proj"]),
    "added_tokens_whole": dict(
        added=2, r=2, lora_alpha=6, target_modules=["v_proj"], modules_to_save=["embed_tokens", "lm_head"]
    ),
    "pissa": dict(r=4, lora_alpha=8, target_modules=["q_proj", "o_proj", "down_proj"], init_lora_weights="pissa"),
    "olora": dict(r=4, lora_alpha=8, target_modules=["v_proj", "down_proj"], init_lora_weights="olora"),
    "pissa_patterns": dict(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "down_proj"],
        init_lora_weights="pissa",
        rank_pattern={"q_proj": 2},
        alpha_pattern={"down_proj": 3},
    ),
}


def randomise(model, seed):
    """Every trained value moved off its start, small against the weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if not parameter.requires_grad:
                continue
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            if "magnitude" in name:
                parameter.mul_(1 + 0.1 * noise)
            else:
                scale = 0.2 if "lora_B" in name or "bias" in name else 1 / math.sqrt(parameter.shape[-1])
                parameter.copy_((scale * noise).to(parameter.dtype))
            # As the file will have it.
            parameter.copy_(parameter.float().to(parameter.dtype))


def load(folder, start):
    """In f64 where there is an exact model, and PEFT makes the start in it."""
    if folder.name == "qwen2" or start in ("pissa", "olora"):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    return run.load_model(folder, "f64")


def trained(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def optimizer_of(name, model):
    settings = dict(betas=(0.9, 0.999), eps=1e-8)
    if name == "loraplus":
        return create_loraplus_optimizer(model, torch.optim.AdamW, lr=RATE, loraplus_lr_ratio=8.0, **settings)
    return torch.optim.AdamW(trained(model), lr=RATE, weight_decay=0.0, **settings)


def steps(name, model, records):
    losses, norms = [], []
    optimizer = optimizer_of(name, model)
    for record in records[:STEPS]:
        optimizer.zero_grad()
        nll, _ = run.token_nll(model, record["input_ids"])
        loss = nll[run.supervised(record)].mean()
        loss.backward()
        losses.append(loss.item())
        norms.append(math.sqrt(sum(float(parameter.grad.double().pow(2).sum()) for parameter in trained(model))))
        optimizer.step()
    return losses, norms


def nll_of(model, ids):
    with torch.no_grad():
        return run.token_nll(model, ids)[0].tolist()


def extend(model, added):
    """Further tokens, whose rows are the mean of all others, each moved a little."""
    size = model.config.vocab_size
    model.resize_token_embeddings(size + added, mean_resizing=False)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for matrix in {module.weight for module in (model.get_input_embeddings(), model.get_output_embeddings())}:
            noise = torch.randn((added, matrix.shape[1]), generator=generator)
            matrix[size:] = (matrix[:size].mean(0) + 0.1 * noise.to(matrix.dtype)).float().to(matrix.dtype)


def with_tokens(ids, tokens):
    """The ids, of which every third is one of these tokens in turn."""
    return [tokens[at // 3 % len(tokens)] if at % 3 == 1 else token for at, token in enumerate(ids)]


def rows_of(model):
    """The trained rows by graftling's names, their tokens in increasing order."""
    found = {}
    for name, module in model.named_modules():
        if name.endswith("token_adapter") and "trainable_tokens_delta" in module._parameters | module._modules and not module.tied_adapter:
            tokens = module.token_indices["default"]
            rows = module.trainable_tokens_delta["default"].detach()
            order = sorted(range(len(tokens)), key=lambda row: tokens[row])
            found[name.split(".")[-2] + ".token_rows"] = rows[order].tolist()
    return found


def make(name, model, out, references, added=0, **settings):
    folder = references / model
    figures = json.loads((folder / "expected.json").read_text())
    start = settings.get("init_lora_weights")
    torch.manual_seed(7)
    base = load(folder, start)
    size = base.config.vocab_size
    if added:
        extend(base, added)
    adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
    taken_out = start in ("pissa", "olora")
    records = figures["adamw"]["records"]
    expected = {"model": model, "settings": settings, "learning_rate": RATE, "input_ids": figures["input_ids"]}
    indices = settings.get("trainable_token_indices", [])
    tokens = sorted(set(indices if isinstance(indices, list) else sum(indices.values(), [])) | set(range(size, size + added)))
    if tokens:
        figures["input_ids"] = expected["input_ids"] = with_tokens(figures["input_ids"], tokens)
        records = expected["records"] = [{"input_ids": with_tokens(record["input_ids"], tokens)} for record in records[:STEPS]]
    if taken_out:
        with tempfile.TemporaryDirectory() as initial:
            # As PEFT's own example: the start is kept, and taken from what was learned.
            adapted.peft_config["default"].init_lora_weights = True
            adapted.save_pretrained(initial)
            adapted.peft_config["default"].init_lora_weights = start
            expected["losses"], expected["grad_norms"] = steps(name, adapted, records)
            adapted.save_pretrained(out / "adapter", path_initial_model_for_weight_conversion=initial)
        expected["token_nll"] = nll_of(adapted, figures["input_ids"])
    else:
        if start != "orthogonal":
            randomise(adapted, 11)
        adapted.save_pretrained(out / "adapter")
        expected["token_nll"] = nll_of(adapted, figures["input_ids"])
        expected["losses"], expected["grad_norms"] = steps(name, adapted, records)
        if tokens:
            expected["rows"] = rows_of(adapted)
    weights = out / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor.float() for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    # No more than tests need: the card names the machine's folders.
    (out / "adapter" / "README.md").unlink(missing_ok=True)
    path = out / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = model
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (out / "expected.json").write_text(json.dumps(expected) + "\n")


def make_several(out, adapters, references):
    """Two adapters at once, the second with weight 0.5."""
    figures = json.loads((references / LLAMA / "expected.json").read_text())
    model = PeftModel.from_pretrained(load(references / LLAMA, None), adapters / "patterns" / "adapter", adapter_name="first")
    model.load_adapter(adapters / "rslora" / "adapter", adapter_name="second")
    for module in model.modules():
        if isinstance(getattr(module, "scaling", None), dict) and "second" in module.scaling:
            module.scaling["second"] *= 0.5
    model.base_model.set_adapter(["first", "second"])
    ids = figures["input_ids"]
    expected = {"model": LLAMA, "adapters": ["patterns", "rslora"], "weights": [1.0, 0.5], "input_ids": ids}
    expected["token_nll"] = nll_of(model.double().eval(), ids)
    (out / "expected.json").write_text(json.dumps(expected) + "\n")


def eva_batches(count):
    """Records of unequal length, the frequent tokens much more frequent than others, of which the first few are not supervised."""
    generator = torch.Generator().manual_seed(2)
    frequency = 1 / torch.arange(1, 94).float() ** 1.5
    number = lambda first, end: int(torch.randint(first, end, (1,), generator=generator))
    batches = []
    for _ in range(count):
        batches.append([])
        for _ in range(3):
            length, prompt = number(10, 25), number(1, 5)
            ids = (torch.multinomial(frequency, length, replacement=True, generator=generator) + 3).tolist()
            batches[-1].append({"input_ids": ids, "labels": [run.IGNORED] * prompt + ids[prompt:]})
    return batches


def padded(records):
    longest = max(len(record["input_ids"]) for record in records)
    rows = lambda values, fill: torch.tensor([value + [fill] * (longest - len(value)) for value in values])
    ids, labels = ([record[key] for record in records] for key in ("input_ids", "labels"))
    mask = rows([[1] * len(value) for value in ids], 0)
    return {"input_ids": rows(ids, 0), "attention_mask": mask, "labels": rows(labels, run.IGNORED)}


def make_eva(out, references):
    """PEFT as it ships, but for rho: low-rank singular values, and the end where all directions have settled."""
    settings = dict(r=4, lora_alpha=8, target_modules=run.ATTENTION + run.MLP, init_lora_weights="eva")
    batches = eva_batches(16)
    made = []

    class Counted(eva.IncrementalPCA):
        def __init__(self, **options):
            super().__init__(**options)
            made.append(self)

    original, eva.IncrementalPCA = eva.IncrementalPCA, Counted
    config = LoraConfig(task_type="CAUSAL_LM", eva_config=EvaConfig(rho=1.0), **settings)
    data = [padded(records) for records in batches]
    found = eva.get_eva_state_dict(load(references / LLAMA, None), data, config, show_progress_bar=False)
    eva.IncrementalPCA = original
    tokens = [int(pca.n_samples_seen_) for pca in made]
    expected = {"model": LLAMA, "settings": settings, "batches": batches, "tokens": tokens}
    (out / "expected.json").write_text(json.dumps(expected) + "\n")
    save_file({f"{name.removeprefix('model.')}.lora_a": a.float().contiguous() for name, a in found.items()}, out / "expected.safetensors")


def main():
    here = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/reference"
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=here / "adapters")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, settings in ADAPTERS.items():
        if arguments.names and name not in arguments.names:
            continue
        out = arguments.out / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        settings = dict(settings)
        make(name, settings.pop("model", LLAMA), out, here, **settings)
        print(name)
    for name, make_it in {"several": lambda out: make_several(out, arguments.out, here), "eva": lambda out: make_eva(out, here)}.items():
        if arguments.names and name not in arguments.names:
            continue
        out = arguments.out / name
        out.mkdir(exist_ok=True)
        make_it(out)
        print(name)


if __name__ == "__main__":
    main()
