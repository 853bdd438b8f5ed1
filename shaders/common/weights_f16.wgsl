// uses: eight_of_elements
// A weight matrix stored as f16 at binding 2, row-major, two to a word (the first in the low half). Needs no f16 arithmetic.
// Buffers are padded to whole groups of four.

@group(0) @binding(2) var<storage, read> weights: array<vec2u>;

// Elements 4 * group .. 4 * group + 3.
fn load_weight4(group: u32) -> vec4f {
    let packed = weights[group];
    return vec4f(unpack2x16float(packed.x), unpack2x16float(packed.y));
}

fn load_weight(index: u32) -> f32 {
    return unpack2x16float(weights[index / 4u][(index / 2u) % 2u])[index % 2u];
}
