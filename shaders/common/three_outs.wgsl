// matmul's results, f32, one for each product of product_of_three, at bindings 4, 6 and 8.

@group(0) @binding(4) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> second_out: array<vec4f>;
@group(0) @binding(8) var<storage, read_write> third_out: array<vec4f>;

// Elements 4 * group .. 4 * group + 3.
fn out4(group: u32) -> vec4f {
    switch own_product {
        case 0u: { return out[group]; }
        case 1u: { return second_out[group]; }
        default: { return third_out[group]; }
    }
}

fn put_out4(group: u32, values: vec4f) {
    switch own_product {
        case 0u: { out[group] = values; }
        case 1u: { second_out[group] = values; }
        default: { third_out[group] = values; }
    }
}
