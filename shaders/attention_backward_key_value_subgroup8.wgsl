// uses: spread_lanes, subgroup8_blocks, soft_cap, window
// attention_backward_key_value for drivers with subgroups of exactly 8: the algorithm of attention_backward_key_value.wgsl on blocks of
// 8 keys and 8 query vectors. One workgroup is one subgroup and owns 8 keys of a key/value head; it walks over the query vectors
// (row, query head of the group) that see any of them, 8 at a time. The lanes hold keys where attention_subgroup8.wgsl, which says
// why that is fast there, has query vectors:
//   weights    lane = key: each lane loads 8 columns of its key and of one query; the queries' are spread
//   gradients  lane = 8 columns: each lane loads its columns of one query vector; the weights of the keys are spread
// Traffic: reads k and v once, writes d_k and d_v once; q, d_out and the statistics are read once for every 8 keys.
// Accumulates in f32, in the order of the rows and, within a row, of the query heads; no barriers, no workgroup memory, no atomics.

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
@group(0) @binding(7) var<storage, read_write> d_k: array<vec4f>;    // as k
@group(0) @binding(8) var<storage, read_write> d_v: array<vec4f>;    // as k

// Where query vectors of key head `key_head` begin in q and d_out.
fn starts_of(vectors: vec4u, key_head: u32) -> vec4u {
    return (vectors / params.group * params.heads + key_head * params.group + vectors % params.group) * HEAD_VEC4;
}

fn start_of(vector: u32, key_head: u32) -> u32 {
    return starts_of(vec4u(vector), key_head).x;
}

fn queries_at(at: vec4u) -> FourEights {
    return four_eights(eight_of(q[at.x / 2u]), eight_of(q[at.y / 2u]), eight_of(q[at.z / 2u]), eight_of(q[at.w / 2u]));
}

fn d_outputs_at(at: vec4u) -> FourEights {
    return four_eights(eight_of(d_out[at.x / 2u]), eight_of(d_out[at.y / 2u]), eight_of(d_out[at.z / 2u]), eight_of(d_out[at.w / 2u]));
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let vectors = params.rows * params.group; // query vectors of a key head
    let blocks = (params.rows + 7u) / 8u;
    let block = params.first_block + group.y * groups.x + group.x;
    let key_head = block / blocks;
    let key_heads = params.heads / params.group;
    if key_head >= key_heads {
        return;
    }
    let key_stride = key_heads * HEAD_VEC4;
    let first_key = block % blocks * 8u;

    // The lane's key; past the end, the last one, computed but not stored.
    let key = min(first_key + lane, params.rows - 1u);
    let k_start = key * key_stride + key_head * HEAD_VEC4;

    // Of d_score q, and of weight d_out: the first four of the lane's columns and the last.
    var near_k: array<EightRows, PAIRS>;
    var far_k: array<EightRows, PAIRS>;
    var near_v: array<EightRows, PAIRS>;
    var far_v: array<EightRows, PAIRS>;
    for (var base = first_key * params.group; base < vectors; base += 8u) {
        if first_seen(segment_start[base / params.group], base / params.group) > first_key + 7u {
            break; // this and all later rows belong to later segments, or their windows begin later
        }
        let vector = min(base + lane, vectors - 1u);
        let row = vector / params.group;
        let first = first_seen(segment_start[row], row);
        let q_start = start_of(vector, key_head);
        var scores_low = vec4f();  // query vectors base .. base + 4
        var scores_high = vec4f(); // query vectors base + 4 .. base + 8
        var d_low = vec4f();
        var d_high = vec4f();
        for (var c = 0u; c < HEAD_VEC4; c += 2u) {
            let own_key = eight_of(k[(k_start + c) / 2u]);
            let own_value = eight_of(v[(k_start + c) / 2u]);
            let query = eight_of(q[(q_start + c) / 2u]);
            let d_output = eight_of(d_out[(q_start + c) / 2u]);
            scores_low = add_low(scores_low, own_key.near, query.near);
            scores_low = add_low(scores_low, own_key.far, query.far);
            scores_high = add_high(scores_high, own_key.near, query.near);
            scores_high = add_high(scores_high, own_key.far, query.far);
            d_low = add_low(d_low, own_value.near, d_output.near);
            d_low = add_low(d_low, own_value.far, d_output.far);
            d_high = add_high(d_high, own_value.near, d_output.near);
            d_high = add_high(d_high, own_value.far, d_output.far);
        }
        // Keys earliest ..= row are seen by a query vector, none by one past the end. Rows are numbers that f32 holds exactly.
        let earliest = select(f32(params.rows), f32(first), base + lane < vectors);
        let sees_low = (vec4f(f32(key)) >= spread_low(earliest)) & (vec4f(f32(key)) <= spread_low(f32(row)));
        let sees_high = (vec4f(f32(key)) >= spread_high(earliest)) & (vec4f(f32(key)) <= spread_high(f32(row)));
        let statistic = statistics[q_start / HEAD_VEC4];
        let capped_low = capped(params.scale * scores_low);
        let capped_high = capped(params.scale * scores_high);
        let weights_low = exp(select(vec4f(UNSEEN), capped_low - spread_low(statistic.x), sees_low));
        let weights_high = exp(select(vec4f(UNSEEN), capped_high - spread_high(statistic.x), sees_high));
        let d_scores_low = weights_low * (d_low - spread_low(statistic.y)) * cap_slope(capped_low);
        let d_scores_high = weights_high * (d_high - spread_high(statistic.y)) * cap_slope(capped_high);

        let four = base + vec4u(0u, 1u, 2u, 3u);
        let starts_low = starts_of(min(four, vec4u(vectors - 1u)), key_head);
        let starts_high = starts_of(min(four + 4u, vec4u(vectors - 1u)), key_head);
        for (var pair = 0u; pair < PAIRS; pair++) {
            if pair * 16u < HEAD_VEC4 {
                let column = column_of(pair, lane);
                let low = queries_at(starts_low + column);
                let high = queries_at(starts_high + column);
                near_k[pair] = add_rows(add_rows(near_k[pair], d_scores_low, low.near), d_scores_high, high.near);
                far_k[pair] = add_rows(add_rows(far_k[pair], d_scores_low, low.far), d_scores_high, high.far);
                let d_low = d_outputs_at(starts_low + column);
                let d_high = d_outputs_at(starts_high + column);
                near_v[pair] = add_rows(add_rows(near_v[pair], weights_low, d_low.near), weights_high, d_high.near);
                far_v[pair] = add_rows(add_rows(far_v[pair], weights_low, d_low.far), weights_high, d_high.far);
            }
        }
    }

    for (var pair = 0u; pair < PAIRS; pair++) {
        if pair * 16u < HEAD_VEC4 {
            let c = pair * 16u + 2u * lane;
            var outputs_near_k = near_k[pair];
            var outputs_far_k = far_k[pair];
            var outputs_near_v = near_v[pair];
            var outputs_far_v = far_v[pair];
            for (var j = first_key; j < min(first_key + 8u, params.rows); j++) {
                if c < HEAD_VEC4 {
                    let at = j * key_stride + key_head * HEAD_VEC4 + c;
                    d_k[at] = params.scale * outputs_near_k[0];
                    d_k[at + 1u] = params.scale * outputs_far_k[0];
                    d_v[at] = outputs_near_v[0];
                    d_v[at + 1u] = outputs_far_v[0];
                }
                outputs_near_k = next(outputs_near_k);
                outputs_far_k = next(outputs_far_k);
                outputs_near_v = next(outputs_near_v);
                outputs_far_v = next(outputs_far_v);
            }
        }
    }
}
