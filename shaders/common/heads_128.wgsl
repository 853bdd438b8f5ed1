// uses: {words}, blocks
// Heads of blocks of 128 elements, see src/storage/affine.rs, at the beginning of each group.

const GROUP_BLOCKS = 16u;
const HEADS = 4u;

fn head_word(block: u32) -> u32 {
    return word(group_at(block) + block % GROUP_BLOCKS / 4u);
}
