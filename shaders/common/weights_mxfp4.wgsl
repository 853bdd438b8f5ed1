// uses: {words}, codes_4bit, {table}
// MXFP4, see src/storage/mxfp4.rs: 2^(e - 128) table[code], with twice the values of an FP4 in the table: 0, 1, 2, 3, 4, 6, 8, 12, and the same
// below zero.

const GROUP_BLOCKS = 8u;
const GROUP_WORDS = 36u;
const CODES = 4u;
const BYTES = vec4u(0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu);

fn table_entry(code: u32) -> f32 {
    return f32(unpack4xI8(BYTES[code / 4u])[code % 4u]);
}

alias Head = f32;

fn load_head(block: u32) -> Head {
    let own = block % 8u;
    let e = (word(group_at(block) + own / 4u) >> (8u * (own % 4u))) & 255u;
    return bitcast<f32>(select((e - 1u) << 23u, 0x00200000u << e, e < 2u));
}

fn four_values(d: Head, codes: u32, four: u32) -> vec4f {
    return d * entries(four_codes(codes, four));
}
