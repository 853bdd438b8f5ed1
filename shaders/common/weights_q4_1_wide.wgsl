// uses: wide_loads
// weights_q4_1 with loads of 16 bytes, see wide_loads: a group of blocks is its head and the codes of each block.

@group(0) @binding(2) var<storage, read> weights: array<vec2<u64>>;

// What the elements of a block share.
fn load_scale(block: u32) -> vec2f {
    return unpack2x16float(words_of(weights[5u * (block / 4u)])[block % 4u]);
}

// The codes of a block, packed, and four of them as numbers.
alias Codes = vec4u;

fn load_codes(block: u32) -> Codes {
    return words_of(weights[block + block / 4u + 1u]);
}

fn four_codes(codes: Codes, four: u32) -> vec4f {
    return vec4f(unpack4xU8((codes[four / 2u] >> (4u * (four % 2u))) & 0x0f0f0f0fu));
}

// Elements 4 * group .. 4 * group + 3.
fn load_weight4(group: u32) -> vec4f {
    let block = group / 8u;
    let scale = load_scale(block);
    return scale.x * four_codes(load_codes(block), group % 8u) + scale.y;
}

fn load_weight(index: u32) -> f32 {
    return load_weight4(index / 4u)[index % 4u];
}
