// uses: {words}, affine
// Codes whose highest bit is in a plane of its own, see src/storage/affine.rs: s code + offset.

const GROUP_WORDS = HEADS + BITS * GROUP_BLOCKS;
const HIGH = HEADS;
const CODES = HEADS + GROUP_BLOCKS;

alias Head = vec3u; // bits of scale and offset, highest bits

fn load_head(block: u32) -> Head {
    let high = word(group_at(block) + HIGH + block % GROUP_BLOCKS);
    return vec3u(bitcast<vec2u>(scale_and_offset(head_word(block))), high);
}

fn four_values(head: Head, codes: u32, four: u32) -> vec4f {
    let scale = bitcast<vec2f>(head.xy);
    return affine(scale.x, scale.y, four_codes(codes, four) | high_bit(head.z, four, BITS - 1u));
}
