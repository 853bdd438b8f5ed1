// uses: blocks
// Codes of 8 bits: of each block 8 words of four.

fn codes_at(block: u32) -> u32 {
    return group_at(block) + CODES + 8u * (block % GROUP_BLOCKS);
}

// The word that holds codes 4 * four .. 4 * four + 4.
fn load_word(block: u32, four: u32) -> u32 {
    return word(codes_at(block) + four);
}

alias Codes8 = vec2u;

fn load_codes8(block: u32, eight: u32) -> Codes8 {
    return two_words(codes_at(block) / 2u + eight);
}

fn first_word(codes: Codes8) -> u32 {
    return codes.x;
}

fn last_word(codes: Codes8) -> u32 {
    return codes.y;
}

alias Codes = array<vec4u, 2>;

fn load_codes(block: u32) -> Codes {
    let at = codes_at(block) / 4u;
    return Codes(four_words(at), four_words(at + 1u));
}

fn eight_codes(codes: Codes, eight: u32) -> Codes8 {
    let four = codes[eight / 2u];
    return select(four.xy, four.zw, eight % 2u == 1u);
}

fn word_of(codes: Codes, four: u32) -> u32 {
    return codes[four / 4u][four % 4u];
}

// The four codes, one a byte.
fn four_codes(codes: u32, four: u32) -> u32 {
    return codes;
}
