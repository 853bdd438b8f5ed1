#!/usr/bin/env python3
"""Does llama.cpp continue a text as graftling does?

    pip install xllamacpp gguf          (llama.cpp itself in a wheel; nothing is built)
    graftling generate --model BASE --adapter A --chat "What is a graft?" --json > expected.json
    graftling export --model BASE --adapter A --to gguf --type f16 --out merged.gguf
    graftling export --model BASE.gguf --adapter A --to gguf-adapter --out adapter.gguf
    tools/llama-cpp/continue.py expected.json merged.gguf
    tools/llama-cpp/continue.py expected.json BASE.gguf --lora adapter.gguf

The prompt's ids are given to llama.cpp as they are, and the most probable token is taken each time. Two programs round differently (llama.cpp
rounds activations to 8 bits before it multiplies them by weights of blocks), so texts may part where two tokens are nearly as probable:
--least says how many characters must be the same. With --text the prompt is given as text besides, so that llama.cpp's tokenizer is
compared too. Every file is read with gguf-py first. Exit code 1: differs.
"""

import argparse
import json
import pathlib
import sys

import gguf
import xllamacpp


def read(path):
    reader = gguf.GGUFReader(path)
    kinds = {}
    for tensor in reader.tensors:
        kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
    architecture = reader.get_field("general.architecture").contents()
    print(f"{path}: {architecture}, {len(reader.fields)} keys, tensors {kinds}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("expected", type=pathlib.Path, help="what `graftling generate --json` printed")
    arguments.add_argument("model", type=pathlib.Path)
    arguments.add_argument("--lora", type=pathlib.Path)
    arguments.add_argument("--least", type=int, default=40, help="characters that must be the same [40, or all there are]")
    arguments.add_argument("--text", help="the prompt as text, marks and all: its ids must be those of EXPECTED")
    options = arguments.parse_args()
    expected = json.loads(options.expected.read_text())
    for path in filter(None, [options.model, options.lora]):
        read(path)

    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.n_ctx, params.n_gpu_layers, params.warmup, params.verbosity = 1024, 0, False, 0
    params.cpuparams.n_threads = 1
    if options.lora:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(options.lora), 1.0)]
    server = xllamacpp.Server(params)

    def complete(prompt, count):
        answer = server.handle_completions({"prompt": prompt, "max_tokens": count, "temperature": 0, "cache_prompt": False})
        if "choices" not in answer:
            sys.exit(f"llama.cpp says: {answer}")
        return answer["choices"][0]["text"], answer["usage"]["prompt_tokens"]

    ours = expected["text"]
    theirs, _ = complete(expected["prompt_ids"], len(expected["token_ids"]))
    same = 0
    while same < min(len(ours), len(theirs)) and ours[same] == theirs[same]:
        same += 1
    enough = same >= min(options.least, len(ours))
    print(f"graftling  {ours!r}\nllama.cpp  {theirs!r}\n{same} of {len(ours)} characters are the same")
    if options.text is not None:
        _, count = complete(options.text, 1)
        print(f"the prompt as text has {count} tokens, by graftling {len(expected['prompt_ids'])}")
        enough = enough and count == len(expected["prompt_ids"])
    sys.exit(0 if enough else 1)


if __name__ == "__main__":
    main()
