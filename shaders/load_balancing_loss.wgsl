// uses: sent_rows
// load_balancing_loss: E sum_e f_e p_e of E experts, with f and p the sums over the rows divided by their number.
// Algorithm: one workgroup. Traffic: reads both once. Sums in f32, in a fixed order.

@group(0) @binding(1) var<storage, read> probabilities: array<f32>;  // [experts]
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;     // [1]

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    let rows = rows_sent(lane);
    var own = 0.0;
    for (var expert = lane; expert < params.experts; expert += 64u) {
        own += f32(sent[expert]) / rows * (probabilities[expert] / rows);
    }
    let total = row_sum(lane, own);
    if lane == 0u {
        loss[0] = f32(params.experts) * total;
    }
}
