// uses: wide_loads
// activations_f32_wide with loads of 32 bytes, for kernels that take 8 steps of k at a time: what a load costs beside its components is
// paid half as often. Rows of a begin at multiples of 8 elements. Needs wide_loads.

@group(0) @binding(1) var<storage, read> a: array<vec4<u64>>;

// Elements 8 * group .. 8 * group + 7.
fn load_a8(group: u32) -> Eight {
    return eight_of(a[group]);
}

// Elements 4 * group .. 4 * group + 3.
fn load_a4(group: u32) -> vec4f {
    let eight = load_a8(group / 2u);
    return select(eight.near, eight.far, group % 2u == 1u);
}

fn load_a(index: u32) -> f32 {
    return load_a4(index / 4u)[index % 4u];
}
