#!/usr/bin/env python3
"""Does graftling round as well as ggml? Every type of a GGUF file, on the matrices of a model, against ggml's own quantisers (libgguf).

    python tools/reference/quantiser_error.py --program target/release/graftling --model MODEL [--adapter ADAPTER] [--tensors 24]

The model is exported in f32 and in each type. What a matrix loses in its type (root mean square) is compared with what it loses where libgguf
rounds the same f32 values to the same type. Prints a line a type: matrices by type, the worst ratio and where, and the ratio in all. Exit code 1:
a matrix loses more than 2 % more than ggml makes it lose.
"""

import argparse
import collections
import pathlib
import subprocess
import sys
import tempfile

import gguf
import libgguf
import numpy as np

TYPES = ["q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"]
MOST = 1.02


def export(options, kind, out):
    adapter = ["--adapter", options.adapter] if options.adapter else []
    command = [options.program, "export", "--model", options.model, *adapter, "--to", "gguf", "--type", kind, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return {tensor.name: tensor for tensor in gguf.GGUFReader(out).tensors}


def loss(found, exact):
    return float(np.sqrt(np.mean((found.astype(np.float64) - exact) ** 2)))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--program", default="graftling")
    arguments.add_argument("--model", required=True)
    arguments.add_argument("--adapter")
    arguments.add_argument("--tensors", type=int, default=24, help="matrices, evenly over the file, the embedding among them [24]")
    arguments.add_argument("--types", nargs="+", default=TYPES, choices=TYPES)
    options = arguments.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as work:
        exact = export(options, "f32", pathlib.Path(work) / "f32.gguf")
        matrices = [name for name, tensor in exact.items() if len(tensor.shape) == 2]
        step = max(1, len(matrices) // options.tensors)
        chosen = [name for at, name in enumerate(matrices) if at % step == 0 or "embd" in name]
        for kind in options.types:
            path = pathlib.Path(work) / f"{kind}.gguf"
            written = export(options, kind, path)
            ratios, counts, sums = {}, collections.Counter(), np.zeros(2)
            for name in chosen:
                values, tensor = np.array(exact[name].data, dtype=np.float32), written[name]
                counts[tensor.tensor_type.name] += 1
                if tensor.tensor_type.name in ("F32", "F16", "BF16"):
                    continue
                ggml = np.frombuffer(libgguf.quantize_rows_raw(tensor.tensor_type, values, *values.shape), np.uint8)
                ours, theirs = (
                    loss(gguf.quants.dequantize(blocks.reshape(len(values), -1), tensor.tensor_type), values) for blocks in (tensor.data, ggml)
                )
                sums += np.array([ours, theirs]) ** 2 * values.size
                ratios[name] = ours / theirs if theirs > 0 else (1.0 if ours == 0 else np.inf)
            worst = max(ratios, key=ratios.get)
            right = ratios[worst] <= MOST
            good &= right
            of_types = ", ".join(f"{count} {name}" for name, count in counts.items())
            print(f"{kind:8} {of_types}: at most {ratios[worst]:.4f} of ggml's error ({worst}), in all {np.sqrt(sums[0] / sums[1]):.4f}"
                  f"{'' if right else '  WRONG'}", flush=True)
            path.unlink()
    sys.exit(not good)


if __name__ == "__main__":
    main()
