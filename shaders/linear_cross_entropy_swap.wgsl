// linear_cross_entropy, where some tokens have rows of their own: puts the logits of these rows into their columns of a chunk of logits, or
// takes their gradients out of there and leaves zeros, so that the product with W sees nothing of them. One workgroup a row.
// Traffic: reads and writes one value a row of the chunk and token with a row of its own. No accumulation.

struct Params { rows: u32, stride: u32, own: u32, takes_out: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> chosen: array<u32>;          // [own]
@group(0) @binding(2) var<storage, read_write> own_logits: array<f32>; // [rows, own]
@group(0) @binding(3) var<storage, read_write> logits: array<f32>;     // [rows, stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * groups.x + group.x;
    if row >= params.rows {
        return;
    }
    for (var k = lane; k < params.own; k += 64u) {
        let at = row * params.stride + min(chosen[k], params.stride - 1u);
        if params.takes_out != 0u {
            own_logits[row * params.own + k] = logits[at];
            logits[at] = 0.0;
        } else {
            logits[at] = own_logits[row * params.own + k];
        }
    }
}
