"""The ids that transformers' AutoTokenizer gives where special tokens stand in one of several files: tests/fixtures/text/special_tokens.json.

One byte-level vocabulary, whose tokenizer.json lists some of its special tokens or none, and beside it the files that older and newer
versions of transformers wrote. Each case holds its files, the ids of each text with and without what the tokenizer adds, and the token
that ends a text.
"""

import json
import os
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parents[2] / "tests/fixtures/text"
OUT = ROOT / "special_tokens.json"

TEXTS = [
    "<|im_start|>user\nThe ships<|im_end|>\n<|im_start|>assistant\n",
    "a <|im_end|> b<|im_end|>",
    "a  <|endoftext|>  b",
    "x<extra>y <extra> z",
    "<|endoftext|>The ships",
]


def token(content, **flags):
    return {"content": content, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True, **flags}


def backend(listed, bos=False):
    vocabulary = json.loads((ROOT / "vocabularies.json").read_text())["byte_level"]
    tokens = vocabulary["tokens"] + ["<extra>"]
    post = None
    if bos:
        name = "<|endoftext|>"
        post = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {name: {"id": name, "ids": [0], "tokens": [name]}}}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": tokens.index(t["content"]), **t} for t in listed],
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": post, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {t: i for i, t in enumerate(tokens)}, "merges": [m.split(" ") for m in vocabulary["merges"]]},
    }


START, END, TEXT_END, EXTRA = "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<extra>"
ALL = [token(TEXT_END), token(START), token(END)]
DECODER = {str(i): token(t) for i, t in enumerate([TEXT_END, START, END])}

# tokenizer.json's own tokens, whether it adds BOS, and the other files.
CASES = {
    "all in tokenizer.json": (ALL, False, {"tokenizer_config.json": {"eos_token": END}}),
    "added_tokens_decoder": ([], False, {"tokenizer_config.json": {"eos_token": END, "added_tokens_decoder": DECODER}}),
    "roles alone": ([], False, {"tokenizer_config.json": {"eos_token": END, "bos_token": START, "pad_token": TEXT_END}}),
    "roles as objects": ([], False, {"tokenizer_config.json": {"eos_token": {"__type": "AddedToken", **token(END, lstrip=True)}}}),
    "additional_special_tokens": ([], False, {"tokenizer_config.json": {"eos_token": END, "additional_special_tokens": [START, TEXT_END]}}),
    "extra_special_tokens": ([], False, {"tokenizer_config.json": {"eos_token": END, "extra_special_tokens": [START, EXTRA]}}),
    "extra_special_tokens by name": ([], False, {"tokenizer_config.json": {"eos_token": END, "extra_special_tokens": {"start_token": START}}}),
    "a role of the model's own": ([], False, {"tokenizer_config.json": {"eos_token": END, "image_token": EXTRA}}),
    "special_tokens_map.json": ([], False, {"tokenizer_config.json": {}, "special_tokens_map.json": {"eos_token": token(END, rstrip=True), "bos_token": START}}),
    "special_tokens_map.json alone": ([], False, {"special_tokens_map.json": {"eos_token": END, "additional_special_tokens": [START]}}),
    "special_tokens_map.json against added_tokens_decoder": ([], False, {
        "tokenizer_config.json": {"eos_token": END, "added_tokens_decoder": {"2": token(END)}},
        "special_tokens_map.json": {"eos_token": TEXT_END, "bos_token": START}}),
    "special_tokens_map.json against tokenizer_config.json": ([], False, {
        "tokenizer_config.json": {"eos_token": END}, "special_tokens_map.json": {"eos_token": TEXT_END}}),
    "added_tokens.json": ([], False, {"tokenizer_config.json": {"eos_token": END}, "added_tokens.json": {START: 1, EXTRA: 9999}}),
    "flags": ([], False, {"tokenizer_config.json": {"eos_token": END, "added_tokens_decoder": {
        "0": token(TEXT_END, lstrip=True, rstrip=True), "2": token(END, single_word=True), "5": token(EXTRA, special=False, normalized=True)}}}),
    "flags against tokenizer.json": (ALL, False, {"tokenizer_config.json": {"eos_token": END, "added_tokens_decoder": {
        "0": token(TEXT_END, lstrip=True, rstrip=True), "1": token(START), "2": token(END)}}}),
    "BOS by tokenizer.json": (ALL, True, {"tokenizer_config.json": {"bos_token": TEXT_END, "eos_token": END}}),
    "add_bos_token: false against tokenizer.json": (ALL, True, {"tokenizer_config.json": {"bos_token": TEXT_END, "eos_token": END, "add_bos_token": False}}),
    "add_bos_token: true against tokenizer.json": (ALL, False, {"tokenizer_config.json": {"bos_token": TEXT_END, "eos_token": END, "add_bos_token": True}}),
}


def case(name, listed, bos, files):
    files = {"tokenizer.json": backend(listed, bos), "config.json": {"model_type": "llama"}, **files}
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            Path(folder, file).write_text(json.dumps(content))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
        added = [tokenizer.encode(text) for text in TEXTS]
        eos = tokenizer.eos_token
    del files["tokenizer.json"], files["config.json"]
    return {"name": name, "listed": [t["content"] for t in listed], "bos": bos, "files": files, "ids": ids, "with_added": added, "eos_token": eos}


def main():
    cases = [case(name, *rest) for name, rest in CASES.items()]
    OUT.write_text(json.dumps({"texts": TEXTS, "tokenizers": {
        f"{int(bool(listed))}{int(bos)}": backend(listed, bos) for listed, bos in [([], False), (ALL, False), (ALL, True)]}, "cases": cases}) + "\n")
    print(len(cases), "cases,", OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
