// uses: heads_parted
// Blocks of 64 elements.

const GROUP_BLOCKS = 64u;
const HEAD_BLOCKS = 2u;
