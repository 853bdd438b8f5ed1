// A weight matrix in blocks of 32 elements at binding 2, row-major, 4 blocks a group of 36 words: of each block the scale d as f32, then
// of each block 32 codes of 8 bits, four to a word. An element is d * code. See src/gpu/blocks.rs.

@group(0) @binding(2) var<storage, read> weights: array<u32>;

// What the elements of a block share.
fn load_scale(block: u32) -> vec2f {
    return vec2f(bitcast<f32>(weights[36u * (block / 4u) + block % 4u]), 0.0);
}

// Its first word of codes: block / 4 + 1 heads of 4 words and `block` blocks of 8 come before it.
fn codes_at(block: u32) -> u32 {
    return 8u * block + 4u * (block / 4u + 1u);
}

// Elements 4 * group .. 4 * group + 3.
fn load_weight4(group: u32) -> vec4f {
    let block = group / 8u;
    return load_scale(block).x * vec4f(unpack4xI8(weights[codes_at(block) + group % 8u]));
}

fn load_weight(index: u32) -> f32 {
    return load_weight4(index / 4u)[index % 4u];
}

// Codes 8 * eight .. 8 * eight + 7 of a block, packed and as numbers.
alias Codes8 = vec2u;

fn load_codes8(block: u32, eight: u32) -> Codes8 {
    let at = codes_at(block) + 2u * eight;
    return vec2u(weights[at], weights[at + 1u]);
}

fn first_codes(codes: Codes8) -> vec4f {
    return vec4f(unpack4xI8(codes.x));
}

fn last_codes(codes: Codes8) -> vec4f {
    return vec4f(unpack4xI8(codes.y));
}
