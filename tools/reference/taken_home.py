#!/usr/bin/env python3
"""What graftling writes, read by the libraries that it is written for: adapters of every kind by PEFT, merged folders by transformers.

    python tools/reference/taken_home.py --program target/release/graftling [--mlx PYTHON] [NAME ...]

* Adapters: a tiny model is trained for some steps with each set of options; PEFT loads the adapter on the unchanged base, and each token's
  loss is compared. The folder that `export --to safetensors` merges it into is read by transformers: losses again, and its matrices against
  those of PEFT's own `merge_and_unload`. `--to mlx-adapter` is compared with PEFT's change of each matrix by mlx-lm's formula, and with
  `--mlx`, a Python that has mlx-lm, by mlx-lm itself.
* Families: the fixtures of every family, merged with their adapter, as transformers reads them.

Prints a line each; the exit code is 1 if one differs.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import lora_run
import make_families
from other_families import records, run, vocabulary

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/reference"
MODEL = FIXTURES / "tiny/grouped_tied"
TOKEN_LOSS = 5e-4
# A merged matrix is rounded once to f32, of PEFT's several operations each.
MATRIX = 1e-5

INIT = "--init-lora-weights"
PATTERNS = ["--rank-pattern", "q_proj=2,down_proj=6", "--alpha-pattern", "k_proj=3,down_proj=5"]
ADAPTERS = {
    "lora": [],
    "rslora": ["--use-rslora"],
    "loraplus": ["--loraplus-lr-ratio", "8"],
    "patterns": PATTERNS,
    "rslora_patterns": ["--use-rslora", *PATTERNS],
    "dora": ["--use-dora"],
    "dora_rslora_patterns": ["--use-dora", "--use-rslora", *PATTERNS],
    "regex": ["--target-modules", r".*layers[.][12][.]mlp[.](gate|up)_proj"],
    "excluded": ["--exclude-modules", "o_proj,gate_proj"],
    "some_layers": ["--layers", "1-2", "--target-modules", "q_proj,down_proj"],
    "gaussian": [INIT, "gaussian"],
    "orthogonal": [INIT, "orthogonal"],
    "pissa": [INIT, "pissa"],
    "pissa_patterns": [INIT, "pissa", *PATTERNS],
    "olora": [INIT, "olora"],
    "loftq": [INIT, "loftq", "--weights", "q4_0"],
    "eva": [INIT, "eva"],
    "eva_dora_patterns": [INIT, "eva", "--use-dora", *PATTERNS],
}

MLX = """
import json, sys
import mlx.core as mx
from mlx_lm.utils import load_model
from mlx_lm.tuner.utils import load_adapters
import pathlib
folder, adapter, ids = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
mx.set_default_device(mx.cpu)
model, _ = load_model(pathlib.Path(folder))
if adapter != "-":
    model = load_adapters(model, adapter)
model.eval()
logits = model(mx.array([ids]))[0].astype(mx.float32)
nll = mx.logsumexp(logits[:-1], axis=-1) - logits[mx.arange(len(ids) - 1), mx.array(ids[1:])]
print(json.dumps(nll.tolist()))
"""


def of_graftling(options, model, adapter, data):
    beside = ["--adapter", adapter] if adapter else []
    said = run(options.program, "eval", "--model", model, *beside, "--data", data, "--json", "--per-token", "--no-autotune")
    return [value for value in json.loads(said)["examples"][0]["token_nll"] if value is not None]


def of_torch(model, ids):
    with torch.no_grad():
        return lora_run.token_nll(model, ids)[0].tolist()


def of_mlx(python, folder, adapter, ids):
    done = subprocess.run([python, "-c", MLX, folder, adapter, json.dumps(ids)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def distance(a, b):
    assert len(a) == len(b), (len(a), len(b))
    return max(abs(x - y) for x, y in zip(a, b))


def peft_of(folder, adapter):
    return PeftModel.from_pretrained(lora_run.load_model(folder, "f64"), adapter).double().eval()


def matrices_differ(merged, model):
    """The largest distance of a matrix of the merged folder from PEFT's, against the size of PEFT's."""
    theirs = model.merge_and_unload().state_dict()
    ours = {}
    for file in merged.glob("*.safetensors"):
        ours |= load_file(file)
    assert set(ours) <= set(theirs), set(ours) - set(theirs)
    return max(float((ours[name].double() - theirs[name]).norm() / theirs[name].norm()) for name in ours)


def mlx_differs(folder, model):
    """How far mlx-lm's `scale (x A) B` is from PEFT's change of each matrix; every key of mlx-lm's is there, and each pair is used."""
    config = json.loads((folder / "adapter_config.json").read_text())
    parameters = config["lora_parameters"]
    assert config["fine_tune_type"] == "lora" and set(parameters) == {"rank", "scale", "dropout", "keys"}, config
    tensors = load_file(folder / "adapters.safetensors")
    worst, used = 0.0, set()
    for name, module in model.named_modules():
        if "default" not in getattr(module, "lora_A", {}):
            continue
        path = name.removeprefix("base_model.model.")
        assert any(path.endswith(key) for key in parameters["keys"]), path
        a, b = (tensors[f"{path}.lora_{half}"].double() for half in "ab")
        assert a.shape == (module.in_features, parameters["rank"]) and b.shape == (parameters["rank"], module.out_features)
        change = module.get_delta_weight("default").double()
        worst = max(worst, float((parameters["scale"] * a @ b - change.T).norm() / change.norm()))
        used |= {f"{path}.lora_a", f"{path}.lora_b"}
    assert used == set(tensors), set(tensors) ^ used
    return worst


def adapter(options, name, work):
    figures = json.loads((MODEL / "expected.json").read_text())
    ids = figures["input_ids"]
    folder, out, merged = work / "model", work / name, work / f"{name}-merged"
    more = ADAPTERS[name]
    steps = records(work / "train.jsonl", [record["input_ids"] for record in figures["adamw"]["records"]])
    run(options.program, "train", "--model", folder, "--data", steps, "--out", out, "--lora-r", 4, "--lora-alpha", 8, "--max-steps", 8,
              "--learning-rate", 1e-2, "--batch-size", 1, "--max-length", 64, "--no-autotune", *more)
    sequence = records(work / "sequence.jsonl", [ids])
    ours, base = (of_graftling(options, folder, with_adapter, sequence) for with_adapter in (out, None))
    model = peft_of(folder, out)
    peft = of_torch(model, ids)
    run(options.program, "export", "--model", folder, "--adapter", out, "--to", "safetensors", "--type", "f32", "--out", merged)
    found = {
        "PEFT": distance(ours, peft),
        "merged": distance(of_graftling(options, merged, None, sequence), peft),
        "transformers": distance(of_torch(lora_run.load_model(merged, "f64"), ids), peft),
    }
    if "--use-dora" not in more:
        mlx = work / f"{name}-mlx"
        run(options.program, "export", "--model", folder, "--adapter", out, "--to", "mlx-adapter", "--out", mlx)
        formula = mlx_differs(mlx, model)
        if options.mlx:
            found["mlx-lm"] = distance(of_mlx(options.mlx, folder, mlx, ids), peft)
    else:
        formula = 0.0
    matrices = matrices_differ(merged, model)
    learned = distance(ours, base)
    good = max(found.values()) <= TOKEN_LOSS and max(matrices, formula) <= MATRIX and learned > 0.05
    words = ", ".join(f"{what} {value:.1e}" for what, value in found.items())
    print(f"{name:22} {words}; matrices {matrices:.1e}, mlx {formula:.1e}; the adapter changes {learned:.2f}{'' if good else '  WRONG'}", flush=True)
    return good


def family(options, name, work):
    source, merged = FIXTURES / "families" / name, work / name
    expected = json.loads((source / "expected.json").read_text())
    run(options.program, "export", "--model", source, "--adapter", source / "adapter", "--to", "safetensors", "--type", "f32", "--out", merged)
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32, attn_implementation="eager").eval()
    found = distance(of_torch(model, expected["input_ids"]), expected["adapted"]["token_nll"])
    good = found <= TOKEN_LOSS
    print(f"{name:22} transformers {found:.1e}{'' if good else '  WRONG'}", flush=True)
    return good


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--program", default="graftling")
    arguments.add_argument("--mlx", help="a Python that has mlx-lm")
    arguments.add_argument("names", nargs="*", choices=[[], *ADAPTERS, *make_families.FAMILIES], default=[])
    options = arguments.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        (work / "model").mkdir()
        for file in ["config.json", "model.safetensors"]:
            shutil.copy(MODEL / file, work / "model")
        vocabulary(work / "model", json.loads((MODEL / "config.json").read_text())["vocab_size"])
        names = options.names or [*ADAPTERS, *make_families.FAMILIES]
        good = [(adapter if name in ADAPTERS else family)(options, name, work) for name in names]
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
