// Room of attention's kernels for heads of up to 256 columns: see head_128.

const MAX_HEAD_VEC4 = 64u;
const SLOTS = 8u;
