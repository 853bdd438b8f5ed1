// uses: {words}, codes_4bit, affine
// Q4_0, see src/storage/q4_0.rs: d (code - 8), which is d code - 8 d exactly.

const GROUP_BLOCKS = 8u;
const GROUP_WORDS = 36u;
const CODES = 4u;

alias Head = f32;

fn load_head(block: u32) -> Head {
    return unpack2x16float(word(group_at(block) + block % 8u / 2u))[block % 2u];
}

fn four_values(d: Head, codes: u32, four: u32) -> vec4f {
    return affine(d, -8.0 * d, four_codes(codes, four));
}
