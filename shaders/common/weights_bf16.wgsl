// uses: eight_of_elements
// A weight matrix stored as bf16 at binding 2, row-major, two to a word (the first in the low half): a bf16 is the upper half of the
// f32 of the same value. Buffers are padded to whole groups of four.

@group(0) @binding(2) var<storage, read> weights: array<vec2u>;

// Elements 4 * group .. 4 * group + 3.
fn load_weight4(group: u32) -> vec4f {
    let packed = weights[group];
    return bitcast<vec4f>(vec4u(packed.x << 16u, packed.x & 0xffff0000u, packed.y << 16u, packed.y & 0xffff0000u));
}

fn load_weight(index: u32) -> f32 {
    let word = weights[index / 4u][(index / 2u) % 2u];
    return bitcast<f32>(select(word << 16u, word & 0xffff0000u, index % 2u == 1u));
}
