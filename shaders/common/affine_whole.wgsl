// uses: affine
// Codes in one piece, see src/storage/affine.rs: s code + offset.

const GROUP_WORDS = HEADS + BITS * GROUP_BLOCKS;
const CODES = HEADS;

alias Head = vec2f;

fn load_head(block: u32) -> Head {
    return scale_and_offset(head_word(block));
}

fn four_values(head: Head, codes: u32, four: u32) -> vec4f {
    return affine(head.x, head.y, four_codes(codes, four));
}
