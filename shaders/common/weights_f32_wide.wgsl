// uses: wide_loads
// weights_f32 with loads of 8 bytes, see wide_loads.

@group(0) @binding(2) var<storage, read> weights: array<vec2<u64>>;

// Elements 4 * group .. 4 * group + 3.
fn load_weight4(group: u32) -> vec4f {
    return four_of(weights[group]);
}

fn load_weight(index: u32) -> f32 {
    let pair = weights[index / 4u][(index / 2u) % 2u];
    return bitcast<f32>(u32(pair >> (32u * (index % 2u))));
}
