// uses: eight
// What every weight in blocks of 32 elements offers to the algorithms: by elements, eight at a time, and by whole blocks. Of its format it
// takes Head, load_head and four_values, of its codes Codes8 (those of eight elements), Codes (those of a block) and how they are loaded.
//
// | | |
// |---|---|
// | Head, load_head(block) | what the elements of a block share: scales, offsets, high bits of codes; a scalar or a vector |
// | four_values(head, codes, four) | elements 4 * four .. 4 * four + 4 of a block, from the word that holds their codes |

// Elements 4 * group .. 4 * group + 4 of the matrix.
fn load_weight4(group: u32) -> vec4f {
    let block = group / 8u;
    let four = group % 8u;
    return four_values(load_head(block), load_word(block, four), four);
}

fn load_weight(index: u32) -> f32 {
    return load_weight4(index / 4u)[index % 4u];
}

// Elements 4 * near .. 4 * near + 8, for an even `near`: they share a head. `far` is near + 1.
fn load_weight8(near: u32, far: u32) -> Eight {
    let block = near / 8u;
    let eight = near / 2u % 4u;
    let head = load_head(block);
    let codes = load_codes8(block, eight);
    return Eight(first_values(head, codes, eight), last_values(head, codes, eight));
}

// The first and the last four of elements 8 * eight .. 8 * eight + 8 of a block.
fn first_values(head: Head, codes: Codes8, eight: u32) -> vec4f {
    return four_values(head, first_word(codes), 2u * eight);
}

fn last_values(head: Head, codes: Codes8, eight: u32) -> vec4f {
    return four_values(head, last_word(codes), 2u * eight + 1u);
}

// Elements 4 * four .. 4 * four + 4 of a block that was loaded as a whole.
fn values_of(head: Head, codes: Codes, four: u32) -> vec4f {
    return four_values(head, word_of(codes, four), four);
}

// Where a group of blocks begins, in words.
fn group_at(block: u32) -> u32 {
    return GROUP_WORDS * (block / GROUP_BLOCKS);
}
