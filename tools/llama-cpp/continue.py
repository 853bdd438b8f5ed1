#!/usr/bin/env python3
"""Does llama.cpp continue a text as graftling does?

    pip install xllamacpp gguf          (llama.cpp itself in a wheel; nothing is built)
    graftling generate --model BASE --adapter A --chat "What is a graft?" --json > expected.json
    graftling export --model BASE --adapter A --to gguf --type f16 --out merged.gguf
    graftling export --model BASE.gguf --adapter A --to gguf-adapter --out adapter.gguf
    tools/llama-cpp/continue.py expected.json merged.gguf
    tools/llama-cpp/continue.py expected.json BASE.gguf --lora adapter.gguf

The prompt's ids are given to llama.cpp as they are, and the most probable token is taken each time. Two programs round differently (llama.cpp
rounds activations to 8 bits before it multiplies them by weights of blocks), so they may part where two tokens are nearly as probable: --gap says
by how much llama.cpp may find its own token more probable than graftling's, in natural log. With --text the prompt is given as text besides, so that
llama.cpp's tokenizer is compared too. Every file is read with gguf-py first. Exit code 1: differs. `every_type.py` does all this for all types.
"""

import argparse
import json
import pathlib
import sys

from llama import Llama, described, parted


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("expected", type=pathlib.Path, help="what `graftling generate --json` printed")
    arguments.add_argument("model", type=pathlib.Path)
    arguments.add_argument("--lora", type=pathlib.Path)
    arguments.add_argument("--gap", type=float, default=0.2, help="log p by which llama.cpp may prefer another token [0.2]")
    arguments.add_argument("--text", help="the prompt as text, marks and all: its ids must be those of EXPECTED")
    options = arguments.parse_args()
    expected = json.loads(options.expected.read_text())
    for path in filter(None, [options.model, options.lora]):
        print(f"{path}: {described(path)}")
    llama = Llama(options.model, options.lora)
    ours = expected["token_ids"]
    partings = parted(llama, expected["prompt_ids"], ours)
    worst = max((gap for _, gap in partings), default=0.0)
    print(f"{len(ours) - len(partings)} of {len(ours)} ids are the same, the others are less probable by at most {worst:.3f}")
    good = worst <= options.gap
    if options.text is not None:
        ids = llama.ids(options.text)
        print(f"the prompt as text: {'the same ids' if ids == expected['prompt_ids'] else ids}")
        good &= ids == expected["prompt_ids"]
    sys.exit(not good)


if __name__ == "__main__":
    main()
