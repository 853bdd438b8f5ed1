// uses: wide_loads
// logits_fours with loads and stores of 8 bytes a component, for CPU drivers.

@group(0) @binding(3) var<storage, read_write> logits: array<vec2<u64>>; // [rows, stride] of f32, this chunk; the first columns count

// Columns 4 * four .. 4 * four + 4 of a row.
fn load_logits(row: u32, four: u32) -> vec4f {
    return four_of(logits[row * (params.stride / 4u) + four]);
}

// Columns that do not count stay as they are.
fn store_logits(row: u32, four: u32, values: vec4f) {
    let at = row * (params.stride / 4u) + four;
    if 4u * four + 4u <= params.columns {
        logits[at] = pairs_of(values);
    } else {
        let counts = 4u * four + vec4u(0u, 1u, 2u, 3u) < vec4u(params.columns);
        logits[at] = pairs_of(select(four_of(logits[at]), values, counts));
    }
}
