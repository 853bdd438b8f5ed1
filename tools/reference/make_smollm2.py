#!/usr/bin/env python3
"""Figures of SmolLM2-135M-Instruct from PyTorch and PEFT: forward passes, a masked conversation, LoRA runs.

    python tools/reference/gguf_to_folder.py SmolLM2-135M-Instruct.Q4_1.gguf FOLDER
    python tools/reference/make_smollm2.py FOLDER [--records lora_batches.jsonl] [--out tests/fixtures/reference/smollm2]

Everything is f32 as transformers and PEFT ship it; the first run is repeated in f64 to show the floor. Takes minutes.
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

import lora_run as run

PROMPTS = {
    "prose": "In the autumn of 1847 the lighthouse keeper wrote that the herring had come back, and that nobody in the village",
    "question": "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n",
    "rust": 'fn main() {\n    let names = vec!["Ada", "Grace"];\n    for (i, name) in names.iter().enumerate() {\n        println!(',
    "french": "Il était une fois, dans une forêt lointaine, un renard qui n'aimait pas l'été ; sa sœur",
    "numbers": "Invoice 2024-117: 3 items at $19.99 each, 7% tax,\ttotal = $64.17. Paid 31/12/2024.\n\nInvoice 2024-118:",
    "mixed_scripts": "東京 (Tōkyō) means “eastern capital” — Москва́, القاهرة and 🦀🇫🇷 are",
}

CHAT = [
    {"role": "system", "content": "You answer in one short sentence."},
    {"role": "user", "content": "How many legs does a spider have?"},
    {"role": "assistant", "content": "A spider has eight legs."},
    {"role": "user", "content": "And an ant?"},
    {"role": "assistant", "content": "An ant has six legs, like every insect."},
]

RUNS = {
    "all_linear": dict(modules=run.ATTENTION + run.MLP, layers=None, steps=20, probe_layers=[15]),
    "attention": dict(modules=run.ATTENTION, layers=None, steps=20, probe_layers=[]),
    "mlp_20_29": dict(modules=run.MLP, layers=list(range(20, 30)), steps=10, probe_layers=[20]),
}
RANK, ALPHA, LEARNING_RATE = 8, 16, 2e-4


def forward_figures(model, input_ids, end):
    """As in smollm2_forward.json: token_nll, the 16 largest logits and the logsumexp at the last position, 24 greedy tokens."""
    with torch.no_grad():
        nll, logits = run.token_nll(model, input_ids)
        top = logits[-1].topk(16)
        ids, margins = list(input_ids), []
        while len(ids) < len(input_ids) + 24:
            best = model(torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
            ids.append(int(best.indices[0]))
            margins.append(float(best.values[0] - best.values[1]))
            if ids[-1] == end:
                break
    return {
        "input_ids": input_ids,
        "token_nll": [round(value, 6) for value in nll.tolist()],
        "last_top16_token": top.indices.tolist(),
        "last_top16_logit": [round(value, 5) for value in top.values.tolist()],
        "last_logsumexp": round(float(torch.logsumexp(logits[-1], 0)), 5),
        "greedy_continuation": ids[len(input_ids) :],
        "smallest_greedy_margin": round(min(margins), 5),
    }


def supervise_assistant(tokenizer, messages):
    """ChatML ids and labels: the content of assistant turns and their <|im_end|>, not the line break that follows it."""
    input_ids, labels = [], []
    for message in messages:
        head = tokenizer(f"<|im_start|>{message['role']}\n", add_special_tokens=False).input_ids
        body = tokenizer(f"{message['content']}<|im_end|>", add_special_tokens=False).input_ids
        tail = tokenizer("\n", add_special_tokens=False).input_ids
        learned = message["role"] == "assistant"
        input_ids += head + body + tail
        labels += [run.IGNORED] * len(head) + (body if learned else [run.IGNORED] * len(body)) + [run.IGNORED] * len(tail)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer(whole, add_special_tokens=False).input_ids == input_ids
    return {"input_ids": input_ids, "labels": labels}


def write_forward(folder, write):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = run.load_model(folder, "f32")
    end = model.config.eos_token_id
    prompts = {
        name: {"text": text} | forward_figures(model, tokenizer(text, add_special_tokens=False).input_ids, end)
        for name, text in PROMPTS.items()
    }
    write("forward_more.json", prompts)
    print("greedy margins:", {name: figures["smallest_greedy_margin"] for name, figures in prompts.items()})

    record = supervise_assistant(tokenizer, CHAT)
    with torch.no_grad():
        nll, _ = run.token_nll(model, record["input_ids"])
    mask = run.supervised(record)
    write(
        "masked_chat.json",
        {"messages": CHAT, "text": tokenizer.apply_chat_template(CHAT, tokenize=False)}
        | record
        | {
            "loss": float(nll[mask].double().mean()),
            "supervised_tokens": int(mask.sum()),
            "token_nll": [value if keep else None for value, keep in zip(nll.tolist(), mask.tolist())],
        },
    )
    print(f"masked chat: loss {float(nll[mask].mean()):.6f} over {int(mask.sum())} tokens")


def lora_run(folder, records, precision, modules, layers, steps, probe_layers):
    model = run.add_lora(run.load_model(folder, precision), modules, RANK, ALPHA, layers=layers)
    norms, probes = {}, {}

    def look(step):
        if step > 2:
            return
        found = run.gradients(model)
        norms[f"step{step}"] = {name: float(gradient.double().norm()) for name, gradient in found.items()}
        if step == 2:
            keep = tuple(f"layers.{layer}." for layer in probe_layers)
            probes.update({name: gradient for name, gradient in found.items() if name.startswith(keep)})

    schedule = [[[records[i % len(records)]]] for i in range(steps)]
    losses, grad_norms = run.train(model, schedule, LEARNING_RATE, after_backward=look)
    final = run.values(model)
    with torch.no_grad():
        after = [run.token_nll(model, record["input_ids"])[0].mean().item() for record in records[:5]]
    document = {
        "lora": {"r": RANK, "alpha": ALPHA, "target_modules": modules, "layers": layers},
        "learning_rate": LEARNING_RATE,
        "trainable_parameters": sum(value.numel() for value in final.values()),
        "losses": losses,
        "grad_norms": grad_norms,
        "final_eval_losses": after,
        "gradient_l2": norms,
        "final_l2": {name: float(value.double().norm()) for name, value in final.items()},
    }
    return document, probes, final


def main():
    here = pathlib.Path(__file__).resolve().parent
    fixtures = here.parents[1] / "tests/fixtures/reference/smollm2"
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", type=pathlib.Path, help="Hugging Face folder")
    arguments.add_argument("--records", type=pathlib.Path, default=fixtures / "lora_batches.jsonl")
    arguments.add_argument("--out", type=pathlib.Path, default=fixtures)
    arguments.add_argument("--only", choices=["forward", *RUNS], help="make this part alone")
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)

    def write(name, document):
        (options.out / name).write_text(json.dumps(document) + "\n")

    # the start of one tensor, so that another implementation of the formula can be checked by itself
    start = run.hashed_uniform("layers.3.self_attn.q_proj.lora_a", RANK, 576, 576**-0.5)
    write("adapter_init.json", {"name": "layers.3.self_attn.q_proj.lora_a", "shape": start.shape, "first": start[0, :8].tolist()})
    if options.only in (None, "forward"):
        write_forward(options.model, write)
    records = [json.loads(line) for line in options.records.read_text().splitlines()]
    for name, settings in RUNS.items():
        if options.only not in (None, name):
            continue
        document, probes, final = lora_run(options.model, records, "f32", **settings)
        if name == "all_linear":
            exact, exact_probes, exact_final = lora_run(options.model, records, "f64", **settings)
            document["f32_floor"] = {
                "losses": max(abs(a - b) for a, b in zip(document["losses"], exact["losses"])),
                "gradients_step2": run.worst_relative_l2(probes, exact_probes),
                "final_a": run.worst_relative_l2(*({n: v for n, v in f.items() if "lora_a" in n} for f in (final, exact_final))),
                "final_b": run.worst_relative_l2(*({n: v for n, v in f.items() if "lora_b" in n} for f in (final, exact_final))),
            }
            print("f32 floor:", document["f32_floor"])
        write(f"lora_{name}.json", document)
        if probes:
            save_file(run.as_f32(probes), options.out / f"lora_{name}_gradients.safetensors")
        print(f"{name}: {document['losses'][0]:.6f} -> {document['losses'][-1]:.6f}")


if __name__ == "__main__":
    main()
