// uses: {head}, soft_cap
// attention_backward_key_value: d_v[j] = sum_i p_ij d_out_i and d_k[j] = scale sum_i p_ij (d_out_i . v_j - delta_i) cap'_ij q_i with
// p_ij = exp(s_ij - lse_i) and s_ij = cap(scale q_i . k_j), over the rows i >= j that see j and the query heads of j's group.
// One invocation a (key, key head), walking over the rows that see it. Rows are in order of their segments, so the walk ends at
// the first row of the next segment, or at the first one whose window begins after the key.
// Traffic: reads k and v once, writes d_k and d_v once; q, d_out and the statistics come from cache.
// Accumulates in f32, query head by query head, in the order of the rows; no barriers, no workgroup memory, no atomics.

struct Params { rows: u32, heads: u32, group: u32, scale: f32, window: u32 }

override HEAD_VEC4: u32 = 16; // columns of a head / 4

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4f>;            // [rows, heads * HEAD_VEC4]
@group(0) @binding(2) var<storage, read> k: array<vec4f>;            // [rows, heads / group * HEAD_VEC4]
@group(0) @binding(3) var<storage, read> v: array<vec4f>;            // as k
@group(0) @binding(4) var<storage, read> statistics: array<vec2f>;   // [rows, heads]: lse, delta
@group(0) @binding(5) var<storage, read> d_out: array<vec4f>;        // as q
@group(0) @binding(6) var<storage, read> segment_start: array<u32>;  // [rows], never falling
@group(0) @binding(7) var<storage, read_write> d_k: array<vec4f>;    // as k
@group(0) @binding(8) var<storage, read_write> d_v: array<vec4f>;    // as k

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let id = (group.y * groups.x + group.x) * 64u + lane;
    let key_heads = params.heads / params.group;
    let key_head = id / params.rows;
    if key_head >= key_heads {
        return;
    }
    let key = id % params.rows;
    let start = (key * key_heads + key_head) * HEAD_VEC4;

    var own_key: array<vec4f, MAX_HEAD_VEC4>;
    var own_value: array<vec4f, MAX_HEAD_VEC4>;
    var d_key: array<vec4f, MAX_HEAD_VEC4>;
    var d_value: array<vec4f, MAX_HEAD_VEC4>;
    for (var c = 0u; c < HEAD_VEC4; c++) {
        own_key[c] = k[start + c] * params.scale;
        own_value[c] = v[start + c];
    }

    for (var head = key_head * params.group; head < (key_head + 1u) * params.group; head++) {
        for (var row = key; row < params.rows && segment_start[row] <= key && row - key < params.window; row++) {
            let vector = row * params.heads + head;
            let at = vector * HEAD_VEC4;
            var scores = vec4f();
            var d_weights = vec4f();
            for (var c = 0u; c < HEAD_VEC4; c++) {
                scores += own_key[c] * q[at + c];
                d_weights += own_value[c] * d_out[at + c];
            }
            let score = capped(vec4f(scores.x + scores.y + scores.z + scores.w));
            let weight = exp(score.x - statistics[vector].x);
            let d_weight = d_weights.x + d_weights.y + d_weights.z + d_weights.w;
            let d_score = weight * (d_weight - statistics[vector].y) * cap_slope(score).x;
            for (var c = 0u; c < HEAD_VEC4; c++) {
                d_key[c] += d_score * q[at + c];
                d_value[c] += weight * d_out[at + c];
            }
        }
    }
    for (var c = 0u; c < HEAD_VEC4; c++) {
        d_k[start + c] = params.scale * d_key[c];
        d_v[start + c] = d_value[c];
    }
}
