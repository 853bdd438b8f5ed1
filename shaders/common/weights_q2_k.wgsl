// uses: {words}, codes_2bit, affine
// Q2_K, see src/storage/q2_k.rs: (d s) code - dmin n; each half of a block has its own s and n.

const GROUP_BLOCKS = 32u;
const GROUP_WORDS = 84u;
const SCALES = 16u;
const CODES = 20u;

alias Head = vec4f; // of each half: d s and -dmin n

fn load_head(block: u32) -> Head {
    let at = group_at(block);
    let own = block % 32u;
    let scale = unpack2x16float(word(at + SCALES + own / 8u)) * vec2f(1.0, -1.0);
    let bytes = unpack4xU8(word(at + own / 2u));
    let halves = select(bytes.xy, bytes.zw, own % 2u == 1u);
    return scale.xyxy * vec4f(vec4u(halves.x & 15u, halves.x >> 4u, halves.y & 15u, halves.y >> 4u));
}

fn four_values(head: Head, codes: u32, four: u32) -> vec4f {
    let scale = select(head.xy, head.zw, four >= 4u);
    return affine(scale.x, scale.y, four_codes(codes, four));
}
