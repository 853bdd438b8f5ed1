// uses: wide_loads
// Matmul's operand a, f32, at binding 1, loaded 8 bytes at a time: see wide_loads.

@group(0) @binding(1) var<storage, read> a: array<vec2<u64>>;

// Elements 4 * group .. 4 * group + 3.
fn load_a4(group: u32) -> vec4f {
    return four_of(a[group]);
}

fn load_a(index: u32) -> f32 {
    let pair = a[index / 4u][(index / 2u) % 2u];
    return bitcast<f32>(u32(pair >> (32u * (index % 2u))));
}
