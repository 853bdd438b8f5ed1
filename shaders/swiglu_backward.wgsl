// swiglu_backward: d_up = d_y silu(gate), d_gate = d_y up silu'(gate), silu'(g) = s (1 + g (1 - s)), s = sigmoid(g).
// One workgroup for 1,024 elements, 64 at a time: starting a
// workgroup costs a CPU driver about as much as a hundred elements.
// Traffic: reads gate, up and d_y, writes d_gate and d_up. No accumulation.

struct Params { elements: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gate: array<f32>;         // [elements]
@group(0) @binding(2) var<storage, read> up: array<f32>;           // [elements]
@group(0) @binding(3) var<storage, read> d_y: array<f32>;          // [elements]
@group(0) @binding(4) var<storage, read_write> d_gate: array<f32>; // [elements]
@group(0) @binding(5) var<storage, read_write> d_up: array<f32>;   // [elements]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let start = (group.y * groups.x + group.x) * 1024u + lane;
    for (var i = start; i < min(start + 1024u, params.elements); i += 64u) {
        let g = gate[i];
        let s = sigmoid(g);
        let d = d_y[i];
        d_gate[i] = d * up[i] * (s + g * s * (1.0 - s));
        d_up[i] = d * g * s;
    }
}
