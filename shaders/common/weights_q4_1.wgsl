// A weight matrix in blocks of 32 elements at binding 2, row-major, 4 blocks a group of 20 words: of each block scale d and offset m as
// f16, then of each block 32 codes of 4 bits, eight to a word: the low halves of its bytes are four elements, the high halves the next
// four. An element is d * code + m. See src/gpu/blocks.rs.

@group(0) @binding(2) var<storage, read> weights: array<u32>;

// What the elements of a block share.
fn load_scale(block: u32) -> vec2f {
    return unpack2x16float(weights[20u * (block / 4u) + block % 4u]);
}

// Its first word of codes: block / 4 + 1 heads and `block` blocks come before it.
fn codes_at(block: u32) -> u32 {
    return 4u * (block + block / 4u + 1u);
}

// Elements 4 * group .. 4 * group + 3.
fn load_weight4(group: u32) -> vec4f {
    let block = group / 8u;
    let codes = weights[codes_at(block) + group % 8u / 2u] >> (4u * (group % 2u));
    let scale = load_scale(block);
    return scale.x * vec4f(unpack4xU8(codes & 0x0f0f0f0fu)) + scale.y;
}

fn load_weight(index: u32) -> f32 {
    return load_weight4(index / 4u)[index % 4u];
}

// Codes 8 * eight .. 8 * eight + 7 of a block, packed and as numbers.
alias Codes8 = u32;

fn load_codes8(block: u32, eight: u32) -> Codes8 {
    return weights[codes_at(block) + eight];
}

fn first_codes(codes: Codes8) -> vec4f {
    return vec4f(unpack4xU8(codes & 0x0f0f0f0fu));
}

fn last_codes(codes: Codes8) -> vec4f {
    return vec4f(unpack4xU8((codes >> 4u) & 0x0f0f0f0fu));
}
