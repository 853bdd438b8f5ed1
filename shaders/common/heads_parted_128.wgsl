// uses: heads_parted
// Blocks of 128 elements.

const GROUP_BLOCKS = 128u;
const HEAD_BLOCKS = 4u;
