// uses: elements, non_linearity
// activate_backward: d_x = d_y f'(x), f by NON_LINEARITY. Element by element: see elements.
// Traffic: reads x and d_y, writes d_x. No accumulation.

@group(0) @binding(1) var<storage, read> x: array<vec4f>;         // [elements]
@group(0) @binding(2) var<storage, read> d_y: array<vec4f>;       // [elements]
@group(0) @binding(3) var<storage, read_write> d_x: array<vec4f>; // [elements]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let fours = fours_of(group, groups);
    for (var i = fours.x + lane; i < fours.y; i += 64u) {
        let value = d_y[i] * activated_slope(x[i]);
        let left = left_from(i);
        if left >= 4u {
            d_x[i] = value;
        } else {
            for (var c = 0u; c < left; c++) {
                d_x[i][c] = value[c];
            }
        }
    }
}
