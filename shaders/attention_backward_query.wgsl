// uses: {head}, soft_cap, window
// attention_backward_query: d_q[i] = scale sum_j p_ij (d_out_i . v_j - delta_i) cap'_ij k_j with p_ij = exp(s_ij - lse_i) and
// s_ij = cap(scale q_i . k_j), over the keys j <= i that row i sees. One invocation a (row, query head), walking over its keys once, as in attention.
// Traffic: reads q, d_out and the statistics once, writes d_q once; keys and values come from cache.
// Accumulates in f32, in the order of the keys; no barriers, no workgroup memory.

struct Params { rows: u32, heads: u32, group: u32, scale: f32, window: u32 }

override HEAD_VEC4: u32 = 16; // columns of a head / 4

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4f>;            // [rows, heads * HEAD_VEC4]
@group(0) @binding(2) var<storage, read> k: array<vec4f>;            // [rows, heads / group * HEAD_VEC4]
@group(0) @binding(3) var<storage, read> v: array<vec4f>;            // as k
@group(0) @binding(4) var<storage, read> statistics: array<vec2f>;   // [rows, heads]: lse, delta
@group(0) @binding(5) var<storage, read> d_out: array<vec4f>;        // as q
@group(0) @binding(6) var<storage, read> segment_start: array<u32>;  // [rows]
@group(0) @binding(7) var<storage, read_write> d_q: array<vec4f>;    // as q

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let id = (group.y * groups.x + group.x) * 64u + lane;
    let head = id / params.rows;
    if head >= params.heads {
        return;
    }
    let row = id % params.rows;
    let start = (row * params.heads + head) * HEAD_VEC4;
    let key_stride = params.heads / params.group * HEAD_VEC4;
    let key_head = head / params.group * HEAD_VEC4;

    var query: array<vec4f, MAX_HEAD_VEC4>;
    var d_output: array<vec4f, MAX_HEAD_VEC4>;
    var sum: array<vec4f, MAX_HEAD_VEC4>;
    for (var c = 0u; c < HEAD_VEC4; c++) {
        query[c] = q[start + c] * params.scale;
        d_output[c] = d_out[start + c];
    }
    let statistic = statistics[row * params.heads + head];

    for (var key = first_seen(segment_start[row], row); key <= row; key++) {
        let at = key * key_stride + key_head;
        var scores = vec4f();
        var d_weights = vec4f();
        for (var c = 0u; c < HEAD_VEC4; c++) {
            scores += query[c] * k[at + c];
            d_weights += d_output[c] * v[at + c];
        }
        let score = capped(vec4f(scores.x + scores.y + scores.z + scores.w));
        let weight = exp(score.x - statistic.x);
        let d_score = weight * (d_weights.x + d_weights.y + d_weights.z + d_weights.w - statistic.y) * cap_slope(score).x;
        for (var c = 0u; c < HEAD_VEC4; c++) {
            sum[c] += d_score * k[at + c];
        }
    }
    for (var c = 0u; c < HEAD_VEC4; c++) {
        d_q[start + c] = params.scale * sum[c];
    }
}
