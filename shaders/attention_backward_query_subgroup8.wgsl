// uses: subgroup8_blocks, soft_cap, window
// attention_backward_query for drivers with subgroups of exactly 8: the algorithm of attention_backward_query.wgsl on blocks of 8 query
// vectors and 8 keys, laid out over the lanes as in attention_subgroup8.wgsl, which also says why that is fast there.
// Traffic: reads q, d_out and the statistics once, writes d_q once; k and v are read once for every 8 query vectors.
// Accumulates in f32, in the order of the keys; no barriers, no workgroup memory.

struct Params { rows: u32, heads: u32, group: u32, scale: f32, window: u32, first_block: u32 }

override HEAD_VEC4: u32 = 16; // columns of a head / 4
const UNSEEN = -1e30;         // score of a key that a query vector does not see

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<u64>>;       // [rows, heads * HEAD_VEC4 / 2]
@group(0) @binding(2) var<storage, read> k: array<vec4<u64>>;       // [rows, heads / group * HEAD_VEC4 / 2]
@group(0) @binding(3) var<storage, read> v: array<vec4<u64>>;       // as k
@group(0) @binding(4) var<storage, read> statistics: array<vec2f>;   // [rows, heads]: lse, delta
@group(0) @binding(5) var<storage, read> d_out: array<vec4<u64>>;   // as q
@group(0) @binding(6) var<storage, read> segment_start: array<u32>;  // [rows], never falling
@group(0) @binding(7) var<storage, read_write> d_q: array<vec4f>;    // as q

// Where query vector `vector` of key head `key_head` begins in q, d_out and d_q.
fn start_of(vector: u32, key_head: u32) -> u32 {
    return (vector / params.group * params.heads + key_head * params.group + vector % params.group) * HEAD_VEC4;
}

fn keys_at(at: vec4u) -> FourEights {
    return four_eights(eight_of(k[at.x / 2u]), eight_of(k[at.y / 2u]), eight_of(k[at.z / 2u]), eight_of(k[at.w / 2u]));
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let vectors = params.rows * params.group; // query vectors of a key head
    let blocks = (vectors + 7u) / 8u;
    let block = params.first_block + group.y * groups.x + group.x;
    let key_head = block / blocks;
    let key_heads = params.heads / params.group;
    if key_head >= key_heads {
        return;
    }
    let key_stride = key_heads * HEAD_VEC4;
    let key_start = key_head * HEAD_VEC4;
    let first_vector = block % blocks * 8u;

    // The lane's query vector; past the end, the last one, computed but not stored.
    let vector = min(first_vector + lane, vectors - 1u);
    let row = vector / params.group;
    let q_start = start_of(vector, key_head);
    let first = first_seen(segment_start[row], row);
    // Rows are in order, so the first one of the block sees the first key, and the last one the last.
    let first_segment = segment_start[first_vector / params.group];
    let skipped = first_seen(first_segment, first_vector / params.group) - first_segment; // keys before the first one's window
    let begin = first_segment + skipped / 8u * 8u;
    let end = min(first_vector + 7u, vectors - 1u) / params.group;
    let statistic = statistics[q_start / HEAD_VEC4];

    // Of d_score k: the first four of the lane's columns and the last.
    var near: array<EightRows, PAIRS>;
    var far: array<EightRows, PAIRS>;
    for (var base = begin; base <= end; base += 8u) {
        let k_start = min(base + lane, params.rows - 1u) * key_stride + key_start;
        var scores_low = vec4f();  // keys base .. base + 4
        var scores_high = vec4f(); // keys base + 4 .. base + 8
        var d_low = vec4f();
        var d_high = vec4f();
        for (var c = 0u; c < HEAD_VEC4; c += 2u) {
            let query = eight_of(q[(q_start + c) / 2u]);
            let d_output = eight_of(d_out[(q_start + c) / 2u]);
            let key = eight_of(k[(k_start + c) / 2u]);
            let value = eight_of(v[(k_start + c) / 2u]);
            scores_low = add_low(scores_low, query.near, key.near);
            scores_low = add_low(scores_low, query.far, key.far);
            scores_high = add_high(scores_high, query.near, key.near);
            scores_high = add_high(scores_high, query.far, key.far);
            d_low = add_low(d_low, d_output.near, value.near);
            d_low = add_low(d_low, d_output.far, value.far);
            d_high = add_high(d_high, d_output.near, value.near);
            d_high = add_high(d_high, d_output.far, value.far);
        }
        let keys_low = base + vec4u(0u, 1u, 2u, 3u);
        let keys_high = keys_low + 4u;
        let sees_low = (keys_low >= vec4u(first)) & (keys_low <= vec4u(row));
        let sees_high = (keys_high >= vec4u(first)) & (keys_high <= vec4u(row));
        let capped_low = capped(params.scale * scores_low);
        let capped_high = capped(params.scale * scores_high);
        let weights_low = exp(select(vec4f(UNSEEN), capped_low - statistic.x, sees_low));
        let weights_high = exp(select(vec4f(UNSEEN), capped_high - statistic.x, sees_high));
        let d_scores_low = weights_low * (d_low - statistic.y) * cap_slope(capped_low);
        let d_scores_high = weights_high * (d_high - statistic.y) * cap_slope(capped_high);

        let starts_low = min(keys_low, vec4u(params.rows - 1u)) * key_stride + key_start;
        let starts_high = min(keys_high, vec4u(params.rows - 1u)) * key_stride + key_start;
        for (var pair = 0u; pair < PAIRS; pair++) {
            if pair * 16u < HEAD_VEC4 {
                let low = keys_at(starts_low + column_of(pair, lane));
                let high = keys_at(starts_high + column_of(pair, lane));
                near[pair] = add_rows(add_rows(near[pair], d_scores_low, low.near), d_scores_high, high.near);
                far[pair] = add_rows(add_rows(far[pair], d_scores_low, low.far), d_scores_high, high.far);
            }
        }
    }

    for (var pair = 0u; pair < PAIRS; pair++) {
        if pair * 16u < HEAD_VEC4 {
            let c = pair * 16u + 2u * lane;
            var outputs_near = near[pair];
            var outputs_far = far[pair];
            for (var i = first_vector; i < min(first_vector + 8u, vectors); i++) {
                if c < HEAD_VEC4 {
                    let at = start_of(i, key_head) + c;
                    d_q[at] = params.scale * outputs_near[0];
                    d_q[at + 1u] = params.scale * outputs_far[0];
                }
                outputs_near = next(outputs_near);
                outputs_far = next(outputs_far);
            }
        }
    }
}
