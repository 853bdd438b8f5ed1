// uses: {words}, {heads}, {scales}, codes_4bit, affine_whole
// Codes of 4 bits.

const BITS = 4u;
