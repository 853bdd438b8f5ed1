// uses: eight_of_elements
// A weight matrix stored as f32 at binding 2, row-major. Buffers are padded to whole groups of four.

@group(0) @binding(2) var<storage, read> weights: array<vec4f>;

// Elements 4 * group .. 4 * group + 3.
fn load_weight4(group: u32) -> vec4f {
    return weights[group];
}

fn load_weight(index: u32) -> f32 {
    return weights[index / 4u][index % 4u];
}
