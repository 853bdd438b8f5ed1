// uses: {words}, codes_2bit, affine
// Q3_K, see src/storage/q3_k.rs: (d (s - 32)) (code - 4), which is exact in pieces too; each half of a block has its own s, and the
// highest bit of each code is in a plane of its own.

const GROUP_BLOCKS = 8u;
const GROUP_WORDS = 28u;
const HIGH = 4u;
const CODES = 12u;

alias Head = vec3u; // of each half: bits of d (s - 32); highest bits

fn load_head(block: u32) -> Head {
    let at = group_at(block);
    let head = four_words(at / 4u);
    let own = block % 8u;
    let low = (select(head.x, head.y, own >= 4u) >> (8u * (own % 4u))) & 0xffu;
    let high = (head.z >> (4u * own)) & 0xfu;
    let s = vec2u((low & 15u) | ((high & 3u) << 4u), (low >> 4u) | ((high >> 2u) << 4u));
    let d = bitcast<f32>(head.w) * (vec2f(s) - 32.0);
    return vec3u(bitcast<vec2u>(d), word(at + HIGH + own));
}

fn four_values(head: Head, codes: u32, four: u32) -> vec4f {
    let d = bitcast<f32>(select(head.x, head.y, four >= 4u));
    return affine(d, -4.0 * d, four_codes(codes, four) | high_bit(head.z, four, 2u));
}
