#!/usr/bin/env python3
"""What the studio shows beside what transformers and PEFT compute: hidden states, attentions, logits, losses, gradients.

    python tools/reference/studio_numbers.py --graftling target/release/graftling
    python tools/reference/studio_numbers.py --graftling target/release/graftling tests/fixtures/reference/families/gemma2
    python tools/reference/studio_numbers.py --graftling target/release/graftling --time MODEL [--adapter DIR] [--wait SECONDS]

Starts the studio on each fixture (a folder with config.json, model.safetensors and adapter/) and asks over HTTP, as the page does.
Transformers runs in f32 with eager attention. Prints the largest distance of each kind, and ends with 1 if one exceeds its bound (those of
tests/parity: 5e-4 for losses; 1e-5 for attention, probabilities, and, relative to the largest, norms and logits; 1e-3 for gradients).
With --time: how long each view of a sentence or record of 32 tokens takes, at once after opening or so many seconds later, and, in brackets, of all cores together; without transformers.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

BOUNDS = {"norm": 1e-5, "lens": 1e-5, "attention": 1e-5, "logits": 1e-5, "loss": 5e-4, "gradient": 1e-3}
FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/reference"
DEFAULT = ["tiny/grouped_tied", "families/gemma2", "families/gemma3", "families/granite", "families/mistral", "families/olmo2"]
DEFAULT += ["families/phi3_window", "families/qwen2", "families/qwen3", "families/smollm3"]


def tokenizer(size):
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, size)}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    }


class Studio:
    """A studio on a model folder and its adapter, asked over HTTP."""

    def __init__(self, program, model, adapter):
        command = [program, "studio", "--model", str(model), "--no-browser", "--no-autotune"]
        command += ["--adapter", str(adapter)] if adapter else []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        seen = ""
        for line in self.process.stdout:
            seen += line
            if found := re.search(r"(http://127\.0\.0\.1:\d+)/\?token=(\S+)", line):
                self.address, self.token = found.groups()
                return
        raise SystemExit(f"the studio did not start:\n{seen}")

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{self.address}/api/{path}", data, headers)) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise SystemExit(f"/api/{path}: {error.read().decode()}") from error

    def cpu(self):
        """Seconds that all its threads have computed so far: on a driver of the CPU, what others do does not count."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        self.process.terminate()
        self.process.wait()


def text_model(model):
    """The decoder, its final norm and its head, of a model for causal language or of one with images."""
    inner = model.model
    inner = getattr(inner, "language_model", inner)
    return inner


def lens(model, state):
    """Logits of a hidden state by the model's own norm and head, final softcap and scaling included."""
    logits = model.lm_head(text_model(model).norm(state))
    config = model.config.get_text_config()
    logits = logits / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


def raw_states(model, ids):
    """Hidden states before the first layer and after every layer, before the final norm; and the attentions."""
    states = []
    hooks = [text_model(model).layers[0].register_forward_pre_hook(lambda _, inputs, more: states.append(inputs[0] if inputs else more["hidden_states"]), with_kwargs=True)]
    for layer in text_model(model).layers:
        hooks.append(layer.register_forward_hook(lambda _, inputs, output: states.append(output[0] if isinstance(output, tuple) else output)))
    with torch.no_grad():
        out = model(input_ids=ids, output_attentions=True, use_cache=False)
    [hook.remove() for hook in hooks]
    return [state[0] if state.dim() == 3 else state for state in states], [a[0] for a in out.attentions], out.logits[0]


def compare(program, folder):
    distances = dict.fromkeys(BOUNDS, 0.0)

    def note(kind, found, expected, scale=1.0):
        found, expected = torch.as_tensor(found, dtype=torch.float64), torch.as_tensor(expected).double()
        distances[kind] = max(distances[kind], float((found - expected).abs().max()) / max(float(scale), 1e-30))

    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        for name in ["config.json", "model.safetensors"]:
            shutil.copy(folder / name, place / name)
        vocabulary = json.loads((folder / "config.json").read_text())
        vocabulary = vocabulary.get("text_config", vocabulary)["vocab_size"]
        (place / "tokenizer.json").write_text(json.dumps(tokenizer(vocabulary)))
        ids = [3 + (at * 29 + at * at * 5) % 90 for at in range(21)]
        batch = torch.tensor([ids])
        load = lambda: AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, attn_implementation="eager").eval()
        base = load()
        adapted = PeftModel.from_pretrained(load(), folder / "adapter", is_trainable=True).eval()
        studio = Studio(program, place, folder / "adapter")
        try:
            view = studio.ask("lens", {"ids": ids, "k": 50, "tokens": list(range(len(ids)))})
            for layers, model in [(view["layers"], base), (view["adapted"], adapted.get_base_model())]:
                states, attentions, logits = raw_states(model, batch)
                for layer, state in zip(layers, states, strict=True):
                    norms = state.norm(dim=-1)
                    note("norm", [token["norm"] for token in layer["tokens"]], norms, norms.max())
                    shares = torch.softmax(lens(model, state).detach().double(), dim=-1)
                    for token, share in zip(layer["tokens"], shares, strict=True):
                        top = token["top"]
                        note("lens", [entry["p"] for entry in top], share[[entry["id"] for entry in top]])
                strength = 0 if model is base else 1
                for layer, expected in enumerate(attentions):
                    heads = studio.ask("attention", {"ids": ids, "layer": layer, "adapter": strength})["heads"]
                    for head, rows in zip(expected, heads, strict=True):
                        for i, row in enumerate(rows["rows"]):
                            note("attention", row, head[i][: i + 1])
                top = studio.ask("logits", {"ids": ids, "adapter": strength})["top"]
                last = logits[-1].detach()
                note("logits", [entry["logit"] for entry in top], last[[entry["id"] for entry in top]], last.abs().max())
            labels = [-100, -100, *ids[2:]]
            view = studio.ask("backward", {"record": {"input_ids": ids, "labels": labels}})
            adapted.zero_grad()
            loss = adapted(input_ids=batch, labels=torch.tensor([labels]), use_cache=False).loss
            loss.backward()
            note("loss", view["loss"], loss.detach())
            norms = {}
            for name, parameter in adapted.named_parameters():
                if found := re.search(r"(layers\.\d+\..*)\.lora_([AB])\.", name):
                    norms[found.groups()] = float(parameter.grad.norm())
            largest = max(norms.values())
            for site in view["sites"]:
                for matrix, key in [("A", "a_norm"), ("B", "b_norm")]:
                    note("gradient", site[key], norms.pop((site["site"], matrix)), largest)
            assert not norms, f"sites that the studio does not show: {sorted(norms)}"
        finally:
            studio.close()
    return distances


def time_views(program, model, adapter, wait):
    """Seconds of every view, in two rounds: as opened, and with other layers of the same text."""
    studio = Studio(program, model, adapter)
    try:
        text = "The old gardener grafted a branch of the sweet apple onto the wild rootstock, waited through the long winter, and in spring "
        ids = [token["id"] for token in studio.ask("tokens", {"text": text * 3})["tokens"]][:32]
        begin = time.monotonic()
        studio.ask("embedding", {"ids": ids[:1]})
        # What `graftling generate --max-new-tokens 1` takes may be compared: all that the process has computed so far.
        opened = f"opening {time.monotonic() - begin:.2f} s ({studio.cpu():.2f})"
        turns = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "What is a graft?"}]
        # 32 tokens with the template of SmolLM2-135M-Instruct, as the sentence has.
        record = {"messages": turns + [{"role": "assistant", "content": "A branch that grows on another tree."}]}
        read = len(studio.ask("tokens", {"record": record})["tokens"])
        print(f"{opened}, {len(ids)} tokens, a record of {read}")
        time.sleep(wait)
        for layer in [15, 7]:
            views = {
                "tokens": {"text": text}, "embedding": {"ids": ids}, "attention": {"ids": ids, "layer": layer}, "mlp": {"ids": ids, "layer": layer},
                "lens": {"ids": ids}, "logits": {"ids": ids, "temperature": layer / 10}, "lora": None, "backward": {"record": record},
            }
            after = {
                "answer": {"messages": turns, "adapter": layer / 10, "max_tokens": 8}, "fuse": {"ids": ids},
                "prove": {"record": record, "site": f"layers.{layer}.mlp.up_proj", "matrix": "B", "row": 5, "column": 3},
            }
            took = {}
            for path, body in (views | after).items():
                if adapter is None and path in ("lora", "fuse"):
                    continue
                begin, cpu = time.monotonic(), studio.cpu()
                studio.ask(path, body)
                took[path] = [time.monotonic() - begin, studio.cpu() - cpu]
            print(*(f"{path} {seconds:.2f} ({cpu:.2f})" for path, (seconds, cpu) in took.items()))
            together = [sum(took[path][which] for path in views if path in took) for which in [0, 1]]
            print(f"views together {together[0]:.2f} s, {together[1]:.2f} s of the processor")
    finally:
        studio.close()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--graftling", required=True)
    arguments.add_argument("--time", metavar="MODEL")
    arguments.add_argument("--adapter")
    arguments.add_argument("--wait", type=float, default=0.0, metavar="SECONDS")
    arguments.add_argument("fixtures", type=pathlib.Path, nargs="*")
    options = arguments.parse_args()
    if options.time:
        return time_views(options.graftling, options.time, options.adapter, options.wait)
    torch.set_num_threads(1)
    worst = 0
    for folder in options.fixtures or [FIXTURES / name for name in DEFAULT]:
        distances = compare(options.graftling, folder)
        failed = [kind for kind, distance in distances.items() if not distance <= BOUNDS[kind]]
        worst += len(failed)
        print(f"{folder.name:<16}", *(f"{kind} {distance:.1e}" for kind, distance in distances.items()), *(f"TOO FAR: {kind}" for kind in failed), flush=True)
    sys.exit(1 if worst else 0)


if __name__ == "__main__":
    main()
