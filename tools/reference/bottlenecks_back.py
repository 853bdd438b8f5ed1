#!/usr/bin/env python3
"""A bottleneck adapter that graftling has written, read by AdapterHub's library: are the losses of the tokens the same?

    graftling train --model MODEL --data DATA.jsonl --out ADAPTER --adapter-method houlsby ...
    graftling eval --model MODEL --adapter ADAPTER --data IDS.jsonl --per-token --json > eval.json
    hub/bin/python tools/reference/bottlenecks_back.py MODEL ADAPTER IDS.jsonl eval.json

IDS.jsonl has records with "input_ids"; all tokens but the first count. For the environment see make_bottlenecks.py. Exits with 1 if a loss is
further than 5e-4 from the library's, or if the library finds a tensor too few or too many.
"""

import argparse
import json
import pathlib
import sys

import adapters
import torch

from make_bottlenecks import load, token_nll

BOUND = 5e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("adapter")
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("eval", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load(arguments.model)
    adapters.init(model)
    found = {}
    name = model.load_adapter(
        arguments.adapter, with_head=False, use_safetensors=True, set_active=True, loading_info=found
    )
    model.eval()
    odd = [key for key in found.get("missing_keys", []) if "adapters." in key] + found.get("unexpected_keys", [])
    print(f"adapter `{name}`: {sum(p.numel() for n, p in model.named_parameters() if '.adapters.' in n)} parameters")
    records = [json.loads(line) for line in arguments.data.read_text().splitlines() if line.strip()]
    examples = json.loads(arguments.eval.read_text())["examples"]
    worst = 0.0
    with torch.no_grad():
        for record, example in zip(records, examples, strict=True):
            for expected, told in zip(token_nll(model, record["input_ids"]).tolist(), example["token_nll"]):
                worst = max(worst, abs(expected - told))
    print(f"{len(records)} records, largest distance of a token's loss {worst:.2e}; tensors amiss: {odd or 'none'}")
    sys.exit(bool(odd) or worst > BOUND)


if __name__ == "__main__":
    main()
