// uses: sigmoid
// attention_sinks: puts a score of each query head, its sink, into the softmax of every row: lse' = log(exp(lse) + exp(sink)), and
// out' = out exp(lse - lse') = out sigmoid(lse - sink), in place. One invocation a (row, query head).
// Traffic: reads and writes out and lse once; sinks come from cache. No accumulation.

struct Params { vectors: u32, heads: u32 } // rows * heads

override HEAD_VEC4: u32 = 16; // columns of a head / 4

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> sinks: array<f32>;       // [heads]
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>; // [vectors, HEAD_VEC4]
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;   // [vectors]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * groups.x + group.x) * 64u + lane;
    if i >= params.vectors {
        return;
    }
    let sink = sinks[i % params.heads];
    let of_keys = lse[i];
    let share = sigmoid(vec4f(of_keys - sink)).x;
    lse[i] = max(of_keys, sink) + log(1.0 + exp(-abs(of_keys - sink)));
    for (var c = 0u; c < HEAD_VEC4; c++) {
        out[i * HEAD_VEC4 + c] *= share;
    }
}
