// uses: row_sum
// load_balancing_loss: E sum_e f_e p_e of E experts, with f and p the sums over the rows divided by their number, which is that of all that were
// sent divided by those that each row is sent to. Algorithm: one workgroup. Traffic: reads both once. Sums in f32, in a fixed order.

struct Params { experts: u32, chosen: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> probabilities: array<f32>;  // [experts]
@group(0) @binding(2) var<storage, read> sent: array<u32>;           // [experts]
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;     // [1]

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    var own = 0.0;
    for (var expert = lane; expert < params.experts; expert += 64u) {
        own += f32(sent[expert]);
    }
    let rows = row_sum(lane, own) / f32(params.chosen);
    own = 0.0;
    for (var expert = lane; expert < params.experts; expert += 64u) {
        own += f32(sent[expert]) / rows * (probabilities[expert] / rows);
    }
    let total = row_sum(lane, own);
    if lane == 0u {
        loss[0] = f32(params.experts) * total;
    }
}
