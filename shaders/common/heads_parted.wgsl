// uses: {words}, blocks
// Heads with scales and zero points apart, see src/storage/affine.rs: at the beginning of each group 32 scales of 16 bits, then 32 zero
// points of 4. Of the size of blocks it takes GROUP_BLOCKS and HEAD_BLOCKS, the blocks of 32 elements that share a head.

const HEADS = 20u;

// The scale in the low half, the zero point in the high one.
fn head_word(block: u32) -> u32 {
    let at = group_at(block);
    let own = block % GROUP_BLOCKS / HEAD_BLOCKS;
    let scale = (word(at + own / 2u) >> (16u * (own % 2u))) & 0xffffu;
    let zero = (word(at + 16u + own / 8u) >> (4u * (own % 8u))) & 15u;
    return scale | (zero << 16u);
}
