// uses: {words}, codes_4bit, affine
// Q5_1, see src/storage/q5_1.rs: d code + m; the highest bit of each code is in a plane of its own.

const GROUP_BLOCKS = 8u;
const GROUP_WORDS = 48u;
const HIGH = 8u;
const CODES = 16u;

alias Head = vec2u; // d and m in f16, highest bits

fn load_head(block: u32) -> Head {
    let at = group_at(block) + block % 8u;
    return vec2u(word(at), word(at + HIGH));
}

fn four_values(head: Head, codes: u32, four: u32) -> vec4f {
    let scale = unpack2x16float(head.x);
    return affine(scale.x, scale.y, four_codes(codes, four) | high_bit(head.y, four, 4u));
}
