#!/usr/bin/env python3
"""Everything that graftling exports for llama.cpp, read by llama.cpp: does it load, continue as graftling does, and answer?

    pip install xllamacpp gguf
    graftling demo                        # an adapter in demo-output
    tools/llama-cpp/every_type.py --program target/release/graftling --model MODEL --adapter demo-output --work FOLDER

For each type the merged model is exported, and the first of --questions is answered by graftling and by llama.cpp from that very file, id by id
(see `continue.py`). Where llama.cpp prefers another id, since it rounds what enters a matrix of blocks to 8 bits, the same numbers in f32 must agree.
Then all questions are put to llama.cpp: as a chat with the template of the file, or as plain text where a record has a prompt and its completion.
The words that an answer must have are those of the record's `expect`, or else of --key-words. Last, the adapter is exported and put beside the base, which must be a GGUF file for
that. Prints a line a file; exit code 1 if one differs by more than --gap, or answers less than --least of the questions.

    tools/llama-cpp/every_type.py --program ... --tiny qwen3 --work FOLDER

does the same, without questions, for a random model of a family that has the byte-level vocabulary of tests/fixtures/text (needs transformers
and PEFT as well).
"""

import argparse
import json
import pathlib
import subprocess
import sys

from llama import Llama, described, parted

ROOT = pathlib.Path(__file__).resolve().parents[2]
TYPES = ["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"]


# Of log p, where two programs compute the same in f32.
EXACT = 0.01


def graftling(options, *arguments):
    done = subprocess.run([options.program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"graftling {' '.join(map(str, arguments))}\n{done.stderr}")
    return done.stdout


def asked(options, llama):
    """How many of the questions are answered with the words that must be there."""
    right, asked = 0, records(options)[: options.ask]
    for question, words, chat in asked:
        answer = llama.answer(question) if chat else llama.text(question).split("\n")[0]
        met = all(word.lower() in answer.lower() for word in words)
        right += met
        if not met:
            print(f"    {question!r}: {answer!r}")
    return right, len(asked)


def records(options):
    """Questions, the words that their answers must have, and whether they are asked in a conversation."""
    key_words, found = json.loads(options.key_words.read_text()), []
    for record in map(json.loads, options.questions.read_text().splitlines()):
        chat = "messages" in record
        question, answer = (message["content"] for message in record["messages"][-2:]) if chat else (record["prompt"], record["completion"])
        words = record.get("expect", {}).get("contains") or key_words[answer.strip()]
        found.append((question, [words] if isinstance(words, str) else words, chat))
    return found


def compared(options, name, file, lora, model, adapter):
    """A line on one file. `model` and `adapter` are what graftling reads to say the same."""
    prompt, _, chat = records(options)[0]
    how = ["--chat", prompt] if chat and not options.tiny else ["--prompt", prompt]
    beside = ["--adapter", adapter] if adapter else []
    said = graftling(options, "generate", "--model", model, *beside, *how, "--max-new-tokens", options.tokens, "--json", "--no-autotune")
    expected = json.loads(said)
    llama = Llama(file, lora)
    ids = expected["prompt_ids"], expected["token_ids"]
    partings = parted(llama, *ids)
    count, worst = len(expected["token_ids"]), max((gap for _, gap in partings), default=0.0)
    good = worst <= options.gap
    text = f"{count - len(partings)} of {count} ids the same" + (f", others less probable by {worst:.3f}" if partings else "")
    if partings and not lora:
        # With the same numbers in f32 llama.cpp does not round what enters a matrix: then there is nothing left to differ in.
        exact = options.work / "exact.gguf"
        graftling(options, "export", "--model", file, "--to", "gguf", "--type", "f32", "--out", exact, "--overwrite")
        left = max((gap for _, gap in parted(Llama(exact), *ids)), default=0.0)
        good = left <= EXACT
        text += f" and, with the same numbers in f32, by {left:.3f}"
        exact.unlink()
    if options.tiny:
        same = llama.ids(prompt) == expected["prompt_ids"]
        good &= same
        text += "" if same else ", THE PROMPT HAS OTHER IDS"
    elif options.ask:
        right, of = asked(options, llama)
        good &= right >= options.least * of
        text += f", {right} of {of} questions right"
    print(f"{name:12} {text}{'' if good else '  WRONG'}  ({described(lora or file)})", flush=True)
    return good


def tiny(options):
    """A random model of a family with a tokenizer, and an adapter for it."""
    sys.path.insert(0, str(ROOT / "tools/reference"))
    import numpy as np
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    import make_families

    torch.set_num_threads(1)
    folder = options.work / options.tiny
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = json.loads((ROOT / "tests/fixtures/text/vocabularies.json").read_text())["byte_level"]
    tokens, marks = vocabulary["tokens"], ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = models.BPE(vocab={token: at for at, token in enumerate(tokens)}, merges=[tuple(merge.split(" ")) for merge in vocabulary["merges"]])
    tokenizer = Tokenizer(words)
    # As in the tokenizer.json of HuggingFaceTB/SmolLM2-135M-Instruct.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False, True, True)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    tokenizer.save(str(folder / "tokenizer.json"))
    end = tokens.index("<|im_end|>")
    sizes = make_families.SIZES | dict(
        vocab_size=len(tokens), hidden_size=256, intermediate_size=512, bos_token_id=0, eos_token_id=end, pad_token_id=0
    )
    kind, changes, _ = make_families.FAMILIES[options.tiny]
    config = kind(**(sizes | changes))
    generator = np.random.default_rng(5)
    model = make_families.random_model(config, generator)
    model.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}))
    torch.manual_seed(3)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", rank_pattern={"q_proj": 2}, use_rslora=True))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    adapted.save_pretrained(folder / "adapter")
    options.model, options.adapter = folder, folder / "adapter"


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--program", default="graftling")
    arguments.add_argument("--model")
    arguments.add_argument("--adapter", type=pathlib.Path)
    arguments.add_argument("--tiny", help="a family of tools/reference/make_families.py instead of a model")
    arguments.add_argument("--work", type=pathlib.Path, required=True, help="folder for what is exported")
    arguments.add_argument("--types", nargs="+", default=TYPES, choices=TYPES)
    arguments.add_argument("--questions", type=pathlib.Path, default=ROOT / "data/velmarrow/held-out.jsonl")
    arguments.add_argument("--key-words", type=pathlib.Path, default=ROOT / "data/velmarrow/key-words.json")
    arguments.add_argument("--ask", type=int, default=10, help="how many of the questions [10]")
    arguments.add_argument("--least", type=float, default=0.8, help="share of the questions that must be right [0.8]")
    arguments.add_argument("--tokens", type=int, default=24)
    arguments.add_argument("--gap", type=float, default=0.2, help="log p by which llama.cpp may prefer another token [0.2]")
    options = arguments.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.tiny:
        tiny(options)
    elif not options.model or not options.adapter:
        arguments.error("give --model and --adapter, or --tiny")
    both = ["--model", options.model, "--adapter", options.adapter]
    good = True
    for kind in options.types:
        file = options.work / f"{kind}.gguf"
        graftling(options, "export", *both, "--to", "gguf", "--type", kind, "--out", file, "--overwrite")
        good &= compared(options, kind, file, None, file, None)
        file.unlink()
    base = pathlib.Path(options.model)
    if base.suffix != ".gguf":
        base = options.work / "base.gguf"
        graftling(options, "export", "--model", options.model, "--to", "gguf", "--type", "f32", "--out", base, "--overwrite")
    lora = options.work / "adapter.gguf"
    graftling(options, "export", "--model", base, "--adapter", options.adapter, "--to", "gguf-adapter", "--out", lora, "--overwrite")
    good &= compared(options, "base + lora", base, lora, base, options.adapter)
    sys.exit(not good)


if __name__ == "__main__":
    main()
