// uses: activation
// glu: y = activation(gate) * up, an activation being g s(g): see activation. One workgroup for 1,024 elements, 4 an invocation at a
// time: starting a workgroup costs a CPU driver about as much as a hundred elements, and a load of four little more than one of one.
// Traffic: reads gate and up, writes y. No accumulation. The last four are read whole, since buffers are padded, and stored one by one.

struct Params { elements: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gate: array<vec4f>;    // [elements]
@group(0) @binding(2) var<storage, read> up: array<vec4f>;      // [elements]
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>; // [elements]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let start = (group.y * groups.x + group.x) * 256u;
    let end = min(start + 256u, (params.elements + 3u) / 4u);
    for (var i = start + lane; i < end; i += 64u) {
        let g = gate[i];
        let value = g * gate_share(g) * up[i];
        let left = params.elements - 4u * i;
        if left >= 4u {
            y[i] = value;
        } else {
            for (var c = 0u; c < left; c++) {
                y[i][c] = value[c];
            }
        }
    }
}
