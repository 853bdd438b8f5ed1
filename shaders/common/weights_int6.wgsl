// uses: {words}, {heads}, {scales}, codes_4bit, affine
// Codes of 6 bits, see src/storage/affine.rs: s code + offset; the highest two bits of each code are in planes of their own.

const GROUP_WORDS = HEADS + 6u * GROUP_BLOCKS;
const HIGH = HEADS;
const CODES = HEADS + 2u * GROUP_BLOCKS;

alias Head = vec4u; // bits of scale and offset, highest bits of each half

fn load_head(block: u32) -> Head {
    let high = group_at(block) + HIGH + 2u * (block % GROUP_BLOCKS);
    return vec4u(bitcast<vec2u>(scale_and_offset(head_word(block))), word(high), word(high + 1u));
}

fn four_values(head: Head, codes: u32, four: u32) -> vec4f {
    let scale = bitcast<vec2f>(head.xy);
    let high = (select(head.z, head.w, four >= 4u) >> (2u * (four % 4u))) & 0x03030303u;
    return affine(scale.x, scale.y, four_codes(codes, four) | (high << 4u));
}
