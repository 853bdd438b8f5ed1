// uses: {words}, blocks
// Heads of blocks of 32 elements, see src/storage/affine.rs, at the beginning of each group.

const GROUP_BLOCKS = 8u;
const HEADS = 8u;

fn head_word(block: u32) -> u32 {
    return word(group_at(block) + block % GROUP_BLOCKS);
}
