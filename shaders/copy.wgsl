// copy: y = x. One workgroup for 4,096 elements: each of 64 lanes moves 16 vec4s, neighbours side by side.
// Traffic: reads x once, writes y once, and nothing else: what it reaches is the memory's bandwidth. No accumulation.

struct Params { vec4s: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;       // [vec4s]
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>; // [vec4s]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let start = (group.y * groups.x + group.x) * 1024u + lane;
    for (var i = start; i < min(start + 1024u, params.vec4s); i += 64u) {
        y[i] = x[i];
    }
}
