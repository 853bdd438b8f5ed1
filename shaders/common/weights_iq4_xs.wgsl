// uses: {words}, codes_4bit, iq4_table
// IQ4_XS, see src/storage/iq4_xs.rs: (d (s - 32)) table[code].

const GROUP_BLOCKS = 8u;
const GROUP_WORDS = 36u;
const CODES = 4u;

alias Head = f32;

fn load_head(block: u32) -> Head {
    let at = group_at(block);
    let first = word(at);
    let own = block % 8u;
    let s = ((word(at + 1u) >> (4u * own)) & 15u) | (((first >> (16u + 2u * own)) & 3u) << 4u);
    return unpack2x16float(first).x * (f32(s) - 32.0);
}

fn four_values(d: Head, codes: u32, four: u32) -> vec4f {
    return d * entries(four_codes(codes, four));
}
