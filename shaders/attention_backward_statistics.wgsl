// attention_backward_statistics: what the two gradient kernels need of each (row, query head): its log-sum-exp, and
// delta = d_out . out, which is the gradient of the softmax's normalisation. One invocation a (row, query head).
// Traffic: reads out, d_out and lse, writes two numbers a head. Accumulates in f32, in a fixed order.

struct Params {
    vectors: u32,   // rows * heads
    head_vec4: u32, // columns of a head / 4; no constant, for which compilers would unroll the loop and keep a whole head in registers
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> out: array<vec4f>;              // [vectors, head_vec4]
@group(0) @binding(2) var<storage, read> d_out: array<vec4f>;            // [vectors, head_vec4]
@group(0) @binding(3) var<storage, read> lse: array<f32>;                // [vectors]
@group(0) @binding(4) var<storage, read_write> statistics: array<vec2f>; // [vectors]: lse, delta

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * groups.x + group.x) * 64u + lane;
    if i >= params.vectors {
        return;
    }
    var products = vec4f();
    for (var c = 0u; c < params.head_vec4; c++) {
        products += out[i * params.head_vec4 + c] * d_out[i * params.head_vec4 + c];
    }
    statistics[i] = vec2f(lse[i], products.x + products.y + products.z + products.w);
}
