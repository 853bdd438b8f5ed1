// Matmul's operand a in f32, one for each product of product_of_three, at bindings 1, 5 and 7.

@group(0) @binding(1) var<storage, read> a: array<vec4f>;
@group(0) @binding(5) var<storage, read> second_a: array<vec4f>;
@group(0) @binding(7) var<storage, read> third_a: array<vec4f>;

// Elements 4 * group .. 4 * group + 3.
fn load_a4(group: u32) -> vec4f {
    switch own_product {
        case 0u: { return a[group]; }
        case 1u: { return second_a[group]; }
        default: { return third_a[group]; }
    }
}

fn load_a(index: u32) -> f32 {
    return load_a4(index / 4u)[index % 4u];
}
