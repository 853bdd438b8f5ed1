// Room of attention's kernels for heads of up to 256 columns: see head_128.

const SLOTS = 8u;
