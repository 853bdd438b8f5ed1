// uses: {words}, codes_4bit, affine, k_scales
// Q4_K, see src/storage/q4_k.rs: (d s) code - dmin n.

const GROUP_BLOCKS = 8u;
const GROUP_WORDS = 36u;
const CODES = 4u;

alias Head = vec2f;

fn load_head(block: u32) -> Head {
    return k_scale(four_words(group_at(block) / 4u), block);
}

fn four_values(head: Head, codes: u32, four: u32) -> vec4f {
    return affine(head.x, head.y, four_codes(codes, four));
}
