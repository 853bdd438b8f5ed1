#!/usr/bin/env python3
"""Token losses of a model by transformers beside those of graftling; of a GGUF file, on its own weights dequantised.

    python tools/reference/gguf_to_folder.py MODEL.gguf FOLDER
    graftling generate --model MODEL.gguf --prompt "$(cat TEXT)" --max-new-tokens 1 --json > ids.json
    python tools/reference/token_losses.py FOLDER ids.json --records records.jsonl
    graftling eval --model MODEL.gguf --data records.jsonl --json --per-token > found.json
    python tools/reference/token_losses.py FOLDER ids.json --found found.json

The first call writes the ids as one record that is supervised throughout; the second prints both mean losses and the largest
distance of a token's loss, and ends with 1 if that exceeds 5e-4 (the bound of tests/parity).
"""

import argparse
import json
import pathlib
import sys

import numpy as np
import torch

import lora_run as run

BOUND = 5e-4


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("ids", type=pathlib.Path)
    arguments.add_argument("--records", type=pathlib.Path)
    arguments.add_argument("--found", type=pathlib.Path)
    options = arguments.parse_args()
    ids = json.loads(options.ids.read_text())["prompt_ids"]
    if options.records:
        options.records.write_text(json.dumps({"input_ids": ids, "labels": ids}) + "\n")
    if not options.found:
        return
    with torch.no_grad():
        expected = run.token_nll(run.load_model(options.folder, "f32"), ids)[0].numpy()
    found = np.array(json.loads(options.found.read_text())["examples"][0]["token_nll"], dtype=np.float64)
    distance = np.abs(found - expected)
    worst = int(distance.argmax())
    print(f"{len(expected)} tokens: mean {expected.mean():.6f} by transformers, {found.mean():.6f} by graftling")
    print(f"largest distance {distance[worst]:.2e} at token {worst + 1} ({expected[worst]:.6f}), bound {BOUND:.0e}")
    sys.exit(1 if distance[worst] > BOUND else 0)


if __name__ == "__main__":
    main()
