// uses: blocks
// Codes of 2 bits: of each block 2 words of sixteen, the lowest two bits of their bytes the first four of them, the next two the next four.

fn codes_at(block: u32) -> u32 {
    return group_at(block) + CODES + 2u * (block % GROUP_BLOCKS);
}

// The word that holds codes 4 * four .. 4 * four + 4.
fn load_word(block: u32, four: u32) -> u32 {
    return word(codes_at(block) + four / 4u);
}

alias Codes8 = u32;

fn load_codes8(block: u32, eight: u32) -> Codes8 {
    return word(codes_at(block) + eight / 2u);
}

fn first_word(codes: Codes8) -> u32 {
    return codes;
}

fn last_word(codes: Codes8) -> u32 {
    return codes;
}

alias Codes = vec2u;

fn load_codes(block: u32) -> Codes {
    return two_words(codes_at(block) / 2u);
}

fn eight_codes(codes: Codes, eight: u32) -> Codes8 {
    return codes[eight / 2u];
}

fn word_of(codes: Codes, four: u32) -> u32 {
    return codes[four / 4u];
}

// The four codes, one a byte.
fn four_codes(codes: u32, four: u32) -> u32 {
    return (codes >> (2u * (four % 4u))) & 0x03030303u;
}
