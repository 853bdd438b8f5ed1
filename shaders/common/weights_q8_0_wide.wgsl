// uses: wide_loads
// weights_q8_0 with loads of 16 bytes, see wide_loads: a group of blocks is its head and twice 16 bytes of codes for each block.

@group(0) @binding(2) var<storage, read> weights: array<vec2<u64>>;

// What the elements of a block share.
fn load_scale(block: u32) -> vec2f {
    return vec2f(bitcast<f32>(words_of(weights[9u * (block / 4u)])[block % 4u]), 0.0);
}

// The codes of a block, packed, and four of them as numbers.
alias Codes = array<vec4u, 2>;

fn load_codes(block: u32) -> Codes {
    let at = 2u * block + block / 4u + 1u;
    return Codes(words_of(weights[at]), words_of(weights[at + 1u]));
}

fn four_codes(codes: Codes, four: u32) -> vec4f {
    return vec4f(unpack4xI8(codes[four / 4u][four % 4u]));
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
