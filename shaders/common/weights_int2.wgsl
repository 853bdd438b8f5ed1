// uses: {words}, {heads}, {scales}, codes_2bit, affine_whole
// Codes of 2 bits.

const BITS = 2u;
