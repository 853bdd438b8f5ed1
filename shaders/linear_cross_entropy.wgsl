// uses: soft_cap, {logits}
// linear_cross_entropy, the part between the two products: for each row of a chunk of logits, bent by a soft cap if there is one, the
// negative log-likelihood of its target, and, in place of the logits, their gradient weight * (softmax - one_hot) * slope of the cap.
// One workgroup a row.
// Traffic: reads the logits twice and writes them once, by fours. The first pass is an online log-sum-exp: each invocation keeps the maximum of
// its columns so far and the sum of exponentials relative to it, so no pass is spent on the maximum alone. Accumulates in f32, in a
// fixed order.

struct Params { rows: u32, columns: u32, stride: u32, first: u32, with_gradient: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> targets: array<u32>;   // [supervised]
@group(0) @binding(2) var<storage, read> weight: array<f32>;    // [1]
@group(0) @binding(4) var<storage, read_write> nll: array<f32>; // [supervised]

const LANES = 64u;
var<workgroup> maxima: array<f32, LANES>;
var<workgroup> sums: array<f32, LANES>;

const LOWEST = -3.4e38; // below every logit; not -inf, which WGSL does not promise

fn columns_of(four: u32) -> vec4u {
    return 4u * four + vec4u(0u, 1u, 2u, 3u);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * groups.x + group.x;
    let own = min(row, params.rows - 1u);
    let fours = (params.columns + 3u) / 4u;
    var largest = LOWEST;
    var sum = 0.0;
    for (var four = lane; four < fours; four += LANES) {
        let counts = columns_of(four) < vec4u(params.columns);
        let values = select(vec4f(LOWEST), capped(load_logits(own, four)), counts);
        let joint = max(largest, max(max(values.x, values.y), max(values.z, values.w)));
        sum = sum * exp(largest - joint) + dot(exp(values - joint), vec4f(1.0));
        largest = joint;
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
    let target_four = target_column / 4u;
    if lane == target_four % LANES {
        let is_target = columns_of(target_four) == vec4u(target_column);
        let only_target = select(vec4f(), capped(load_logits(own, target_four)), is_target);
        nll[params.first + row] = log_sum_exp - dot(only_target, vec4f(1.0));
    }
    if params.with_gradient == 0u {
        return;
    }
    for (var four = lane; four < fours; four += LANES) {
        let one_hot = select(vec4f(), vec4f(1.0), columns_of(four) == vec4u(target_column));
        let values = capped(load_logits(own, four));
        store_logits(own, four, weight[0] * (exp(values - log_sum_exp) - one_hot) * cap_slope(values));
    }
}
