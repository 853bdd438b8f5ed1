// route: the experts of each token, and their weights: the largest of softmax(logits), the lower number first where two are equal.
// Algorithm: one invocation a token. Logits are compared, not probabilities: the next choice is the largest that comes after the last one, by
// value, then by number, so that no list of what is taken is needed. Then one pass for the sum of the softmax, over all experts or over
// those chosen. Traffic: logits are read once a choice, from cache. Sums in f32, in the order of the experts.

struct Params { rows: u32, experts: u32, chosen: u32, of_chosen: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;         // [rows, experts]
@group(0) @binding(2) var<storage, read_write> weights: array<f32>;  // [rows, chosen]
@group(0) @binding(3) var<storage, read_write> numbers: array<u32>;  // [rows, chosen]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = (group.y * groups.x + group.x) * 64u + lane;
    if row >= params.rows {
        return;
    }
    let first = row * params.experts;
    let out = row * params.chosen;
    var largest = 0.0;
    var last = 0.0;
    var last_number = 0u;
    var sum = 0.0;
    for (var choice = 0u; choice < params.chosen; choice++) {
        var best = 0.0;
        var best_number = params.experts;
        for (var expert = 0u; expert < params.experts; expert++) {
            let logit = logits[first + expert];
            let is_left = choice == 0u || logit < last || (logit == last && expert > last_number);
            if is_left && (best_number == params.experts || logit > best) {
                best = logit;
                best_number = expert;
            }
        }
        if choice == 0u {
            largest = best;
        }
        last = best;
        last_number = best_number;
        let value = exp(best - largest);
        sum += value;
        weights[out + choice] = value;
        // All experts but none are undefined numbers: not a choice that leads out of the experts.
        numbers[out + choice] = min(best_number, params.experts - 1u);
    }
    if params.of_chosen == 0u {
        sum = 0.0;
        for (var expert = 0u; expert < params.experts; expert++) {
            sum += exp(logits[first + expert] - largest);
        }
    }
    for (var choice = 0u; choice < params.chosen; choice++) {
        weights[out + choice] /= sum;
    }
}
