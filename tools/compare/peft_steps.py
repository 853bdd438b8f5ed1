"""LoRA training steps with PyTorch and PEFT on the CPU, as a user runs them: one padded batch a step, f32, all cores.

Called by compare.py. Prints one JSON object a step: step, seconds, tokens (without padding), loss (before the update).
"""

import argparse
import json
import pathlib
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def padded(records):
    """Right-padded input_ids, attention_mask and labels, each [records, longest]."""
    longest = max(len(record["input_ids"]) for record in records)
    ids = torch.zeros(len(records), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for row, record in enumerate(records):
        length = len(record["input_ids"])
        ids[row, :length] = torch.tensor(record["input_ids"])
        labels[row, :length] = torch.tensor(record.get("labels", record["input_ids"]))
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", required=True, help="Hugging Face folder")
    arguments.add_argument("--data", required=True, type=pathlib.Path, help="JSONL with input_ids and, optionally, labels")
    arguments.add_argument("--target-modules", required=True, help="comma-separated")
    arguments.add_argument("--lora-r", type=int, default=8)
    arguments.add_argument("--batch-size", type=int, required=True)
    arguments.add_argument("--steps", type=int, required=True)
    arguments.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    options = arguments.parse_args()

    torch.manual_seed(0)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype)
    config = LoraConfig(
        r=options.lora_r,
        lora_alpha=2 * options.lora_r,
        target_modules=options.target_modules.split(","),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4, weight_decay=0.0)
    records = [json.loads(line) for line in options.data.read_text().splitlines()]
    batches = [records[i : i + options.batch_size] for i in range(0, len(records), options.batch_size)]
    for step in range(1, options.steps + 1):
        batch = batches[(step - 1) % len(batches)]
        start = time.perf_counter()
        loss = model(**padded(batch), use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - start
        tokens = sum(len(record["input_ids"]) for record in batch)
        print(json.dumps({"step": step, "seconds": seconds, "tokens": tokens, "loss": loss.item()}), flush=True)


if __name__ == "__main__":
    main()
