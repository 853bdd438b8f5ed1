// uses: {words}, {heads}, {scales}, codes_2bit, affine_plane
// Codes of 3 bits.

const BITS = 3u;
