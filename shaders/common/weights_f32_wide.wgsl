// weights_f32 with loads of 8 bytes, see activations_f32_wide. Needs SHADER_INT64.

@group(0) @binding(2) var<storage, read> weights: array<vec2<u64>>;

// Elements 4 * group .. 4 * group + 3.
fn load_weight4(group: u32) -> vec4f {
    let pairs = weights[group];
    return bitcast<vec4f>(vec4u(u32(pairs.x), u32(pairs.x >> 32u), u32(pairs.y), u32(pairs.y >> 32u)));
}

fn load_weight(index: u32) -> f32 {
    let pair = weights[index / 4u][(index / 2u) % 2u];
    return bitcast<f32>(u32(pair >> (32u * (index % 2u))));
}
