// uses: {words}, codes_4bit, affine
// Q4_1, see src/storage/q4_1.rs: d code + m.

const GROUP_BLOCKS = 8u;
const GROUP_WORDS = 40u;
const CODES = 8u;

alias Head = vec2f;

fn load_head(block: u32) -> Head {
    return unpack2x16float(word(group_at(block) + block % 8u));
}

fn four_values(head: Head, codes: u32, four: u32) -> vec4f {
    return affine(head.x, head.y, four_codes(codes, four));
}
