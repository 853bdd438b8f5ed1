// uses: wide_loads
// words_plain with loads of 16 bytes.

@group(0) @binding(2) var<storage, read> weights: array<vec2<u64>>;

fn word(at: u32) -> u32 {
    return u32(weights[at / 4u][at / 2u % 2u] >> (32u * (at % 2u)));
}

// Words 4 * at .. 4 * at + 4.
fn four_words(at: u32) -> vec4u {
    return words_of(weights[at]);
}
