// scale: y = factor x. One workgroup for 1,024 elements, 64 at a time: starting a
// workgroup costs a CPU driver about as much as a hundred elements.
// Traffic: reads x, writes y. No accumulation.

struct Params { elements: u32, factor: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;       // [elements]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [elements]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let start = (group.y * groups.x + group.x) * 1024u + lane;
    for (var i = start; i < min(start + 1024u, params.elements); i += 64u) {
        y[i] = params.factor * x[i];
    }
}
