// uses: row_sum
// linear_cross_entropy, the end: loss = weight * sum of nll. One workgroup in all; reads each nll once. Accumulates in f32, in a fixed order.

struct Params { count: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;    // [1]
@group(0) @binding(2) var<storage, read> nll: array<f32>;       // [count]
@group(0) @binding(3) var<storage, read_write> loss: array<f32>; // [1]

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    var own = 0.0;
    for (var row = lane; row < params.count; row += 64u) {
        own += nll[row];
    }
    let total = row_sum(lane, own);
    if lane == 0u {
        loss[0] = weight[0] * total;
    }
}
