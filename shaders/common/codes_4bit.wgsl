// uses: blocks
// Codes of 4 bits: of each block 4 words of eight, the low halves of their bytes the first four of them.

fn codes_at(block: u32) -> u32 {
    return group_at(block) + CODES + 4u * (block % GROUP_BLOCKS);
}

// The word that holds codes 4 * four .. 4 * four + 4.
fn load_word(block: u32, four: u32) -> u32 {
    return word(codes_at(block) + four / 2u);
}

alias Codes8 = u32;

fn load_codes8(block: u32, eight: u32) -> Codes8 {
    return word(codes_at(block) + eight);
}

fn first_word(codes: Codes8) -> u32 {
    return codes;
}

fn last_word(codes: Codes8) -> u32 {
    return codes;
}

alias Codes = vec4u;

fn load_codes(block: u32) -> Codes {
    return four_words(codes_at(block) / 4u);
}

fn eight_codes(codes: Codes, eight: u32) -> Codes8 {
    return codes[eight];
}

fn word_of(codes: Codes, four: u32) -> u32 {
    return codes[four / 2u];
}

// The four codes, one a byte.
fn four_codes(codes: u32, four: u32) -> u32 {
    return (codes >> (4u * (four % 2u))) & 0x0f0f0f0fu;
}
