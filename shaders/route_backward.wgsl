// route_backward: d_logits from the gradients of the weights. With p the softmax over all experts or over those chosen, and
// dot = sum of d p over those chosen: d_logit = p (d - dot) for a chosen expert, -p dot for another one, which is 0 where p is over those chosen.
// Algorithm: one invocation a token; it writes what all experts get, then what the chosen ones do. Sums in f32, in a fixed order.

struct Params { rows: u32, experts: u32, chosen: u32, of_chosen: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> d_weights: array<f32>;       // [rows, chosen]
@group(0) @binding(2) var<storage, read> logits: array<f32>;          // [rows, experts]
@group(0) @binding(3) var<storage, read> numbers: array<u32>;         // [rows, chosen]
@group(0) @binding(4) var<storage, read_write> d_logits: array<f32>;  // [rows, experts]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = (group.y * groups.x + group.x) * 64u + lane;
    if row >= params.rows {
        return;
    }
    let first = row * params.experts;
    let own = row * params.chosen;
    // The first choice is the largest.
    let largest = logits[first + numbers[own]];
    var dot = 0.0;
    var sum = 0.0;
    for (var choice = 0u; choice < params.chosen; choice++) {
        let value = exp(logits[first + numbers[own + choice]] - largest);
        dot += d_weights[own + choice] * value;
        sum += value;
    }
    if params.of_chosen == 0u {
        sum = 0.0;
        for (var expert = 0u; expert < params.experts; expert++) {
            sum += exp(logits[first + expert] - largest);
        }
    }
    dot /= sum;
    for (var expert = 0u; expert < params.experts; expert++) {
        var value = 0.0;
        if params.of_chosen == 0u {
            value = -exp(logits[first + expert] - largest) / sum * dot;
        }
        d_logits[first + expert] = value;
    }
    for (var choice = 0u; choice < params.chosen; choice++) {
        let at = first + numbers[own + choice];
        d_logits[at] = exp(logits[at] - largest) / sum * (d_weights[own + choice] - dot);
    }
}
