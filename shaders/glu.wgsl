// uses: elements, activation
// glu: y = activation(gate) * up, an activation being g s(g), some with bounds: see activation. Element by element: see elements.
// Traffic: reads gate and up, writes y. No accumulation.

@group(0) @binding(1) var<storage, read> gate: array<vec4f>;    // [elements]
@group(0) @binding(2) var<storage, read> up: array<vec4f>;      // [elements]
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>; // [elements]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let fours = fours_of(group, groups);
    for (var i = fours.x + lane; i < fours.y; i += 64u) {
        let g = bound_gate(gate[i]);
        let value = g * gate_share(g) * bound_up(up[i]);
        let left = left_from(i);
        if left >= 4u {
            y[i] = value;
        } else {
            for (var c = 0u; c < left; c++) {
                y[i][c] = value[c];
            }
        }
    }
}
