// Room of attention's kernels for heads of up to 128 columns.

const SLOTS = 4u;          // vec4s that a lane of the kernels for subgroups of 8 can hold, in pairs: columns <= 8 lanes * 4 * SLOTS
