// Room of attention's kernels for heads of up to 128 columns. Arrays of this length are indexed by loops over all of it, and by nothing else:
// so drivers unroll the loops and keep the arrays in registers.

const PAIRS = 2u; // of vec4s that a lane of the kernels for subgroups of 8 can hold: columns <= 8 lanes * 8 * PAIRS
