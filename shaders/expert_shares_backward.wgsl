// expert_shares_backward: d_logits of softmax(logits) from the gradient of its sum over the rows, which is that of every row:
// d_logit_e = p_e (d_e - sum of p d). Algorithm: one invocation a row. Traffic: the logits are read three times, two of them from cache.
// Sums in f32, in the order of the experts.

struct Params { rows: u32, experts: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> d_probabilities: array<f32>;  // [experts]
@group(0) @binding(2) var<storage, read> logits: array<f32>;           // [rows, experts]
@group(0) @binding(3) var<storage, read_write> d_logits: array<f32>;   // [rows, experts]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = (group.y * groups.x + group.x) * 64u + lane;
    if row >= params.rows {
        return;
    }
    let first = row * params.experts;
    var largest = logits[first];
    for (var expert = 1u; expert < params.experts; expert++) {
        largest = max(largest, logits[first + expert]);
    }
    var sum = 0.0;
    var dot = 0.0;
    for (var expert = 0u; expert < params.experts; expert++) {
        let value = exp(logits[first + expert] - largest);
        sum += value;
        dot += value * d_probabilities[expert];
    }
    dot /= sum;
    for (var expert = 0u; expert < params.experts; expert++) {
        d_logits[first + expert] = exp(logits[first + expert] - largest) / sum * (d_probabilities[expert] - dot);
    }
}
