// uses: {words}, codes_4bit, affine
// Q6_K, see src/storage/q6_k.rs: (d s) (code - 32), which is (d s) code - 32 (d s) exactly; each half of a block has its own s, and the highest
// two bits of each code are in planes of their own.

const GROUP_BLOCKS = 8u;
const GROUP_WORDS = 56u;
const SCALES = 4u;
const HIGH = 8u;
const CODES = 24u;

alias Head = vec4u; // of each half: bits of d s; of each half: highest bits

fn load_head(block: u32) -> Head {
    let at = group_at(block);
    let scales = unpack4xI8(word(at + SCALES + block % 8u / 2u));
    let d = bitcast<f32>(word(at)) * vec2f(select(scales.xy, scales.zw, block % 2u == 1u));
    let high = at + HIGH + 2u * (block % 8u);
    return vec4u(bitcast<vec2u>(d), word(high), word(high + 1u));
}

fn four_values(head: Head, codes: u32, four: u32) -> vec4f {
    let half = select(head.xz, head.yw, four >= 4u);
    let d = bitcast<f32>(half.x);
    let high = (half.y >> (2u * (four % 4u))) & 0x03030303u;
    return affine(d, -32.0 * d, four_codes(codes, four) | (high << 4u));
}
