// uses: sent_rows
// load_balancing_loss_backward: d_p_e = d E sent_e / rows^2. Algorithm: one workgroup, which counts the rows first. Traffic: reads once, writes
// once. Sums in f32, in a fixed order.

@group(0) @binding(1) var<storage, read> d_loss: array<f32>;                 // [1]
@group(0) @binding(3) var<storage, read_write> d_probabilities: array<f32>;  // [experts]

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    let rows = rows_sent(lane);
    for (var expert = lane; expert < params.experts; expert += 64u) {
        d_probabilities[expert] = d_loss[0] * f32(params.experts) * (f32(sent[expert]) / rows) / rows;
    }
}
