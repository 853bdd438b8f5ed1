#!/usr/bin/env python3
"""Random blocks of ggml's types and of NF4 with the values that gguf-py and bitsandbytes read from them.

    python tools/reference/make_blocks.py [--out tests/fixtures/reference/blocks.safetensors]

Every bit of a block is random but for its scales, which are finite: random ones, and in some blocks the largest, the smallest and zero.
NF4 also has what bitsandbytes makes of given values, K-quants what ggml's own quantisers (libgguf) make of them.
"""

import argparse
import pathlib

import bitsandbytes.functional as bnb
import gguf
import libgguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from safetensors.numpy import save_file

# Offsets of f16 scales in a block.
SCALES = {
    T.Q4_0: [0],
    T.Q4_1: [0, 2],
    T.Q5_0: [0],
    T.Q5_1: [0, 2],
    T.Q8_0: [0],
    T.Q2_K: [80, 82],
    T.Q3_K: [108],
    T.Q4_K: [0, 2],
    T.Q5_K: [0, 2],
    T.Q6_K: [208],
    T.IQ4_NL: [0],
    T.IQ4_XS: [0],
    T.MXFP4: [],
}
EXTREMES = [65504.0, -65504.0, 6e-8, -6e-8, 6.1e-5, 0.0]


def blocks_of(kind, random):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    count = 1024 // block + 2 * len(EXTREMES)
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    for at in SCALES[kind]:
        scales = random.normal(0, 0.05, count).astype(np.float16)
        scales[: len(EXTREMES)] = EXTREMES
        scales[len(EXTREMES) : 2 * len(EXTREMES)] = random.permutation(EXTREMES)
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    if kind == T.MXFP4:
        blocks[:8, 0] = [0, 1, 2, 127, 128, 129, 200, 252]
        blocks[8:, 0] = random.integers(100, 140, count - 8)
    return blocks


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/fixtures/reference/blocks.safetensors"))
    out = parser.parse_args().out
    random = np.random.default_rng(11)
    tensors = {}
    for kind in SCALES:
        blocks = blocks_of(kind, random)
        with np.errstate(over="ignore"):
            values = gguf.quants.dequantize(blocks, kind)
        assert np.isfinite(values).all(), kind
        tensors[f"{kind.name}.blocks"] = blocks
        tensors[f"{kind.name}.values"] = values.astype(np.float32)
    # What gguf-py writes, for the types that it can write; a row each: normal, all alike, zeros, one large value.
    rows = random.normal(0, 0.05, (8, 256)).astype(np.float32)
    rows[1], rows[2] = 0.25, 0.0
    rows[3, 100] = -3.0
    tensors["rows"] = rows
    for kind in [T.Q4_0, T.Q5_0, T.Q5_1]:
        tensors[f"{kind.name}.rows"] = gguf.quants.quantize(rows, kind)
    codes, state = bnb.quantize_4bit(torch.from_numpy(rows), quant_type="nf4", blocksize=64)
    tensors["NF4.rows"] = codes.numpy().reshape(-1)
    tensors["NF4.absmax"] = state.absmax.numpy()
    tensors["NF4.values"] = bnb.dequantize_4bit(codes, state).numpy()
    # A tensor with the tails that weights have, rows of larger and smaller spread, none below zero, and the odd ones from above.
    wide = (random.standard_t(5, (24, 512)) * np.exp(random.normal(-3.5, 0.7, (24, 1)))).astype(np.float32)
    wide[20], wide[21] = np.abs(wide[20]), -np.abs(wide[21])
    wide[22, :256], wide[22, 256:], wide[23, ::2] = 0.25, 0.0, 0.0
    tensors["wide"] = wide
    for kind in [T.Q4_1, T.Q8_0, T.Q4_K, T.Q5_K, T.Q6_K]:
        stored = libgguf.quantize_rows_raw(kind, wide, *wide.shape)
        tensors[f"{kind.name}.wide"] = np.frombuffer(stored, np.uint8).copy()
    _, state = bnb.quantize_4bit(torch.from_numpy(wide), quant_type="nf4", blocksize=64, compress_statistics=True)
    tensors["NF4.wide_absmax"] = (bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset).numpy()
    # Values of FP4 and LLM.int8 of given rows, with the blocks in which graftling keeps them.
    codes, state = bnb.quantize_4bit(torch.from_numpy(rows), quant_type="fp4", blocksize=64)
    blocks = np.concatenate([state.absmax.numpy().view(np.uint8).reshape(-1, 4), codes.numpy().reshape(-1, 32)], 1)
    tensors["FP4.blocks"], tensors["FP4.values"] = blocks, bnb.dequantize_4bit(codes, state).numpy()
    codes, scales, _ = bnb.int8_vectorwise_quant(torch.from_numpy(rows).half())
    of_blocks = scales.numpy().astype(np.float32).repeat(rows.shape[1] // 64)
    blocks = np.concatenate([of_blocks.view(np.uint8).reshape(-1, 4), codes.numpy().view(np.uint8).reshape(-1, 64)], 1)
    tensors["LLM_INT8.blocks"] = blocks
    tensors["LLM_INT8.values"] = bnb.int8_vectorwise_dequant(codes, scales).numpy()
    save_file(tensors, out)


if __name__ == "__main__":
    main()
