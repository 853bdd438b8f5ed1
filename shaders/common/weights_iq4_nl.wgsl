// uses: {words}, codes_4bit, iq4_table
// IQ4_NL, see src/storage/iq4_nl.rs: d table[code].

const GROUP_BLOCKS = 8u;
const GROUP_WORDS = 36u;
const CODES = 4u;

alias Head = f32;

fn load_head(block: u32) -> Head {
    return unpack2x16float(word(group_at(block) + block % 8u / 2u))[block % 2u];
}

fn four_values(d: Head, codes: u32, four: u32) -> vec4f {
    return d * entries(four_codes(codes, four));
}
