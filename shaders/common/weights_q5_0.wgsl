// uses: {words}, codes_4bit, affine
// Q5_0, see src/storage/q5_0.rs: d (code - 16), which is d code - 16 d exactly; the highest bit of each code is in a plane of its own.

const GROUP_BLOCKS = 8u;
const GROUP_WORDS = 44u;
const HIGH = 4u;
const CODES = 12u;

alias Head = vec2u; // bits of d, highest bits

fn load_head(block: u32) -> Head {
    let at = group_at(block);
    let d = unpack2x16float(word(at + block % 8u / 2u))[block % 2u];
    return vec2u(bitcast<u32>(d), word(at + HIGH + block % 8u));
}

fn four_values(head: Head, codes: u32, four: u32) -> vec4f {
    let d = bitcast<f32>(head.x);
    return affine(d, -16.0 * d, four_codes(codes, four) | high_bit(head.y, four, 4u));
}
