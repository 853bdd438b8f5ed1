// matmul's result, f32, at binding 4.

@group(0) @binding(4) var<storage, read_write> out: array<vec4f>;

// Elements 4 * group .. 4 * group + 3.
fn out4(group: u32) -> vec4f {
    return out[group];
}

fn put_out4(group: u32, values: vec4f) {
    out[group] = values;
}
