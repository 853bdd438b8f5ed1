// uses: begun, whole_bounds
// whole_product where k is split over workgroups: part group.z is k_part steps from group.z * k_part on, and its sums go to
// the m n elements from out_start + group.z * m * n on. matmul_sum_parts adds them up.

var<private> own_part: u32;

// To be called before anything else; `rows` is how many rows a workgroup computes.
fn begin(group: vec3u, rows: u32) -> Begun {
    own_part = group.z;
    let step = group.z * params.k_part;
    return Begun(group.x * rows, step, min(step + params.k_part, params.k));
}

fn out_first() -> u32 {
    return params.out_start + own_part * params.m * params.n;
}
