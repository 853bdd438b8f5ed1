// uses: soft_cap
// linear_cross_entropy, the part between the two products: for each row of a chunk of logits, bent by a soft cap if there is one, the
// negative log-likelihood of its target, and, in place of the logits, their gradient weight * (softmax - one_hot) * slope of the cap.
// One workgroup a row.
// Traffic: reads the logits twice and writes them once. The first pass is an online log-sum-exp: each invocation keeps the maximum of
// its columns so far and the sum of exponentials relative to it, so no pass is spent on the maximum alone. Accumulates in f32, in a
// fixed order.

struct Params { rows: u32, columns: u32, stride: u32, first: u32, with_gradient: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> targets: array<u32>;          // [supervised]
@group(0) @binding(2) var<storage, read> weight: array<f32>;           // [1]
@group(0) @binding(3) var<storage, read_write> logits: array<f32>;     // [rows, stride], this chunk; the first columns count
@group(0) @binding(4) var<storage, read_write> nll: array<f32>;        // [supervised]

const LANES = 64u;
var<workgroup> maxima: array<f32, LANES>;
var<workgroup> sums: array<f32, LANES>;

fn capped_logit(at: u32) -> f32 {
    return capped(vec4f(logits[at])).x;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * groups.x + group.x;
    let start = min(row, params.rows - 1u) * params.stride;
    var largest = -3.4e38; // below every logit; not -inf, which WGSL does not promise
    var sum = 0.0;
    for (var c = lane; c < params.columns; c += LANES) {
        let logit = capped_logit(start + c);
        if logit > largest {
            sum = sum * exp(largest - logit) + 1.0;
            largest = logit;
        } else {
            sum += exp(logit - largest);
        }
    }
    maxima[lane] = largest;
    sums[lane] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            let other = maxima[lane + half];
            let joint = max(maxima[lane], other);
            sums[lane] = sums[lane] * exp(maxima[lane] - joint) + sums[lane + half] * exp(other - joint);
            maxima[lane] = joint;
        }
        workgroupBarrier();
    }
    if row >= params.rows {
        return;
    }
    let log_sum_exp = maxima[0] + log(sums[0]);
    let target_column = targets[params.first + row];
    // The lane that will overwrite the target's logit reads it first.
    if lane == target_column % LANES {
        nll[params.first + row] = log_sum_exp - capped_logit(start + target_column);
    }
    if params.with_gradient == 0u {
        return;
    }
    for (var c = lane; c < params.columns; c += LANES) {
        let one_hot = select(0.0, 1.0, c == target_column);
        let logit = capped_logit(start + c);
        logits[start + c] = weight[0] * (exp(logit - log_sum_exp) - one_hot) * cap_slope(vec4f(logit)).x;
    }
}
