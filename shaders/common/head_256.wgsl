// Room of attention's kernels for heads of up to 256 columns: see head_128.

const PAIRS = 4u;
