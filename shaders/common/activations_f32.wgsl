// Matmul's operand a, f32, at binding 1.

@group(0) @binding(1) var<storage, read> a: array<vec4f>;

// Elements 4 * group .. 4 * group + 3.
fn load_a4(group: u32) -> vec4f {
    return a[group];
}

fn load_a(index: u32) -> f32 {
    return a[index / 4u][index % 4u];
}
