// Matmul's operand b in f32, one for each product of product_of_three, at bindings 2, 5 and 7.

@group(0) @binding(2) var<storage, read> weights: array<vec4f>;
@group(0) @binding(5) var<storage, read> second_weights: array<vec4f>;
@group(0) @binding(7) var<storage, read> third_weights: array<vec4f>;

// Elements 4 * group .. 4 * group + 3.
fn load_weight4(group: u32) -> vec4f {
    switch own_product {
        case 0u: { return weights[group]; }
        case 1u: { return second_weights[group]; }
        default: { return third_weights[group]; }
    }
}

fn load_weight(index: u32) -> f32 {
    return load_weight4(index / 4u)[index % 4u];
}
