// uses: elements, activation
// glu_backward: d_up = d_y activation(gate), d_gate = d_y up activation'(gate), 0 beyond a bound: see activation.
// Element by element: see elements.
// Traffic: reads gate, up and d_y, writes d_gate and d_up. No accumulation.

@group(0) @binding(1) var<storage, read> gate: array<vec4f>;         // [elements]
@group(0) @binding(2) var<storage, read> up: array<vec4f>;           // [elements]
@group(0) @binding(3) var<storage, read> d_y: array<vec4f>;          // [elements]
@group(0) @binding(4) var<storage, read_write> d_gate: array<vec4f>; // [elements]
@group(0) @binding(5) var<storage, read_write> d_up: array<vec4f>;   // [elements]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let fours = fours_of(group, groups);
    for (var i = fours.x + lane; i < fours.y; i += 64u) {
        let g = bound_gate(gate[i]);
        let s = gate_share(g);
        let d = d_y[i];
        let of_gate = within_bound(d * bound_up(up[i]) * gate_slope(g, s), gate[i]);
        let of_up = within_bound(d * g * s, abs(up[i]));
        let left = left_from(i);
        if left >= 4u {
            d_gate[i] = of_gate;
            d_up[i] = of_up;
        } else {
            for (var c = 0u; c < left; c++) {
                d_gate[i][c] = of_gate[c];
                d_up[i][c] = of_up[c];
            }
        }
    }
}
