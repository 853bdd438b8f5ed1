// The words of a weight in blocks, at binding 2.

@group(0) @binding(2) var<storage, read> weights: array<u32>;

fn word(at: u32) -> u32 {
    return weights[at];
}

// Words 2 * at and 2 * at + 1.
fn two_words(at: u32) -> vec2u {
    return vec2u(weights[2u * at], weights[2u * at + 1u]);
}

// Words 4 * at .. 4 * at + 4.
fn four_words(at: u32) -> vec4u {
    return vec4u(weights[4u * at], weights[4u * at + 1u], weights[4u * at + 2u], weights[4u * at + 3u]);
}
