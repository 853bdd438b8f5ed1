// uses: {words}, {heads}, {scales}, codes_8bit, affine_whole
// Codes of 8 bits.

const BITS = 8u;
