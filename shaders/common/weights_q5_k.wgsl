// uses: {words}, codes_4bit, affine, k_scales
// Q5_K, see src/storage/q5_k.rs: (d s) code - dmin n; the highest bit of each code is in a plane of its own.

const GROUP_BLOCKS = 8u;
const GROUP_WORDS = 44u;
const HIGH = 4u;
const CODES = 12u;

alias Head = vec3u; // bits of d s and -dmin n, highest bits

fn load_head(block: u32) -> Head {
    let at = group_at(block);
    let scale = k_scale(four_words(at / 4u), block);
    return vec3u(bitcast<vec2u>(scale), word(at + HIGH + block % 8u));
}

fn four_values(head: Head, codes: u32, four: u32) -> vec4f {
    let scale = bitcast<vec2f>(head.xy);
    return affine(scale.x, scale.y, four_codes(codes, four) | high_bit(head.z, four, 4u));
}
