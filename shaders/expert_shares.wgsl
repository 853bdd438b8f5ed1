// expert_shares, first of two passes: of 64 rows, the sum of softmax(logits) for each expert, and how many are sent to it.
// Algorithm: one workgroup for 64 rows. An invocation finds the largest logit and the sum of the softmax of a row; then each is for some of the
// experts and adds up all rows. Traffic: reads the logits twice, the second time from cache, and the numbers once for 64 experts. Sums in
// f32, in the order of the rows.

struct Params { rows: u32, experts: u32, chosen: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;       // [rows, experts]
@group(0) @binding(2) var<storage, read> numbers: array<u32>;      // [rows, chosen]
@group(0) @binding(3) var<storage, read_write> parts: array<f32>;  // [ceil(rows / 64), 2, experts]: the sums, and the rows

var<workgroup> largest: array<f32, 64>;
var<workgroup> scale: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let part = group.y * groups.x + group.x;
    let first = part * 64u;
    let row = first + lane;
    if row < params.rows {
        var most = logits[row * params.experts];
        for (var expert = 1u; expert < params.experts; expert++) {
            most = max(most, logits[row * params.experts + expert]);
        }
        var sum = 0.0;
        for (var expert = 0u; expert < params.experts; expert++) {
            sum += exp(logits[row * params.experts + expert] - most);
        }
        largest[lane] = most;
        scale[lane] = 1.0 / sum;
    }
    workgroupBarrier();
    let end = min(first + 64u, params.rows);
    if first >= end {
        return;
    }
    for (var expert = lane; expert < params.experts; expert += 64u) {
        var sum = 0.0;
        var sent = 0u;
        for (var t = first; t < end; t++) {
            sum += exp(logits[t * params.experts + expert] - largest[t - first]) * scale[t - first];
            for (var choice = 0u; choice < params.chosen; choice++) {
                sent += u32(numbers[t * params.chosen + choice] == expert);
            }
        }
        parts[2u * part * params.experts + expert] = sum;
        parts[(2u * part + 1u) * params.experts + expert] = f32(sent);
    }
}
