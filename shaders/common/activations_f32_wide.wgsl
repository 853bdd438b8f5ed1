// Matmul's operand a, f32, at binding 1, loaded 8 bytes at a time: a CPU driver gathers each component of a load lane by lane, so
// two components of 8 bytes cost about half of four of 4. Needs SHADER_INT64.

@group(0) @binding(1) var<storage, read> a: array<vec2<u64>>;

// Elements 4 * group .. 4 * group + 3.
fn load_a4(group: u32) -> vec4f {
    let pairs = a[group];
    return bitcast<vec4f>(vec4u(u32(pairs.x), u32(pairs.x >> 32u), u32(pairs.y), u32(pairs.y >> 32u)));
}

fn load_a(index: u32) -> f32 {
    let pair = a[index / 4u][(index / 2u) % 2u];
    return bitcast<f32>(u32(pair >> (32u * (index % 2u))));
}
