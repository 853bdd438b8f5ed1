// uses: begun, whole_bounds
// whole_product where a dispatch has up to three products of one shape, of which each has an operand of its own (activations_f32_of_three or
// weights_f32_of_three) and a result of its own: group.z is the product.

var<private> own_product: u32;

// To be called before anything else; `rows` is how many rows a workgroup computes.
fn begin(group: vec3u, rows: u32) -> Begun {
    own_product = group.z;
    return Begun(group.x * rows, 0u, params.k);
}

fn out_first() -> u32 {
    return params.out_start;
}
