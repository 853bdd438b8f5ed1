// uses: {words}, {heads}, {scales}, codes_4bit, affine_plane
// Codes of 5 bits.

const BITS = 5u;
