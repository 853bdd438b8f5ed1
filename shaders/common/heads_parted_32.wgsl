// uses: heads_parted
// Blocks of 32 elements.

const GROUP_BLOCKS = 32u;
const HEAD_BLOCKS = 1u;
