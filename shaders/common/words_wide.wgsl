// uses: wide_loads
// words_plain with loads of 8 bytes a component.

@group(0) @binding(2) var<storage, read> weights: array<vec2<u64>>;

fn word(at: u32) -> u32 {
    return u32(weights[at / 4u][at / 2u % 2u] >> (32u * (at % 2u)));
}

// Words 2 * at and 2 * at + 1.
fn two_words(at: u32) -> vec2u {
    let pair = weights[at / 2u][at % 2u];
    return vec2u(u32(pair), u32(pair >> 32u));
}

// Words 4 * at .. 4 * at + 4.
fn four_words(at: u32) -> vec4u {
    return words_of(weights[at]);
}
