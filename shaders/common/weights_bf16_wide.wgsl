// uses: wide_loads
// weights_bf16 with one load of 8 bytes for four elements, see wide_loads.

@group(0) @binding(2) var<storage, read> weights: array<u64>;

// Elements 4 * group .. 4 * group + 3.
fn load_weight4(group: u32) -> vec4f {
    let packed = vec2u(u32(weights[group]), u32(weights[group] >> 32u));
    return bitcast<vec4f>(vec4u(packed.x << 16u, packed.x & 0xffff0000u, packed.y << 16u, packed.y & 0xffff0000u));
}

fn load_weight(index: u32) -> f32 {
    let word = u32(weights[index / 4u] >> (32u * ((index / 2u) % 2u)));
    return bitcast<f32>(select(word << 16u, word & 0xffff0000u, index % 2u == 1u));
}
