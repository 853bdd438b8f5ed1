// uses: subgroup8_blocks, soft_cap, window
// attention_backward_key_value for drivers with subgroups of exactly 8: the algorithm of attention_backward_key_value.wgsl on tiles of 16 keys
// (8 for heads of more than 64 columns) and 32 query vectors. One workgroup is one subgroup and owns the keys of a key/value head; it walks over
// the query vectors (row, query head of the group) that see any of them, 32 at a time. The keys are the rows of the tile where
// attention_subgroup8.wgsl, which says why that is fast there, has query vectors:
//   weights    lane = 4 query vectors: their columns are the lane's own, those of the keys, one a lane, are spread
//   gradients  lane = 8 columns: of four query vectors at a time each lane loads its columns; the weights of the keys are spread
// Traffic: reads k and v once, writes d_k and d_v once; q and d_out are read twice, the statistics once for every 16 (8) keys.
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

// The lane's four query vectors: their statistics, and which keys they see.
struct Own {
    lse: vec4f,
    delta: vec4f,
    first: vec4u,
    rows: vec4u, // the last keys, their own
}

// Where query vectors of key head `key_head` begin in q and d_out.
fn starts_of(vectors: vec4u, key_head: u32) -> vec4u {
    return (vectors / params.group * params.heads + key_head * params.group + vectors % params.group) * HEAD_VEC4;
}

// Those from `end` on see no key.
fn own_of(vectors: vec4u, end: u32, starts: vec4u) -> Own {
    let rows = vectors / params.group;
    let a = statistics[starts.x / HEAD_VEC4];
    let b = statistics[starts.y / HEAD_VEC4];
    let c = statistics[starts.z / HEAD_VEC4];
    let d = statistics[starts.w / HEAD_VEC4];
    let last = min(rows, vec4u(params.rows - 1u));
    let first = vec4u(
        first_seen(segment_start[last.x], last.x),
        first_seen(segment_start[last.y], last.y),
        first_seen(segment_start[last.z], last.z),
        first_seen(segment_start[last.w], last.w),
    );
    let inside = vectors < vec4u(end);
    return Own(vec4f(a.x, b.x, c.x, d.x), vec4f(a.y, b.y, c.y, d.y), select(vec4u(params.rows), first, inside), rows);
}

fn queries_at(at: vec4u) -> FourEights {
    return four_eights(eight_of(q[at.x / 2u]), eight_of(q[at.y / 2u]), eight_of(q[at.z / 2u]), eight_of(q[at.w / 2u]));
}

fn d_outputs_at(at: vec4u) -> FourEights {
    return four_eights(eight_of(d_out[at.x / 2u]), eight_of(d_out[at.y / 2u]), eight_of(d_out[at.z / 2u]), eight_of(d_out[at.w / 2u]));
}

// What the query vectors weigh keys first .. first + 8 with.
fn weights_of(scores: EightRows, first: u32, own: Own) -> EightRows {
    return EightRows(
        weight(scores[0], first, own),
        weight(scores[1], first + 1u, own),
        weight(scores[2], first + 2u, own),
        weight(scores[3], first + 3u, own),
        weight(scores[4], first + 4u, own),
        weight(scores[5], first + 5u, own),
        weight(scores[6], first + 6u, own),
        weight(scores[7], first + 7u, own),
    );
}

fn weight(score: vec4f, key: u32, own: Own) -> vec4f {
    let sees = (vec4u(key) >= own.first) & (vec4u(key) <= own.rows);
    return exp(select(vec4f(UNSEEN), capped(params.scale * score) - own.lse, sees));
}

fn d_scores_of(scores: EightRows, weights: EightRows, d_weights: EightRows, own: Own) -> EightRows {
    return EightRows(
        d_score(scores[0], weights[0], d_weights[0], own),
        d_score(scores[1], weights[1], d_weights[1], own),
        d_score(scores[2], weights[2], d_weights[2], own),
        d_score(scores[3], weights[3], d_weights[3], own),
        d_score(scores[4], weights[4], d_weights[4], own),
        d_score(scores[5], weights[5], d_weights[5], own),
        d_score(scores[6], weights[6], d_weights[6], own),
        d_score(scores[7], weights[7], d_weights[7], own),
    );
}

fn d_score(score: vec4f, weight: vec4f, d_weight: vec4f, own: Own) -> vec4f {
    return weight * (d_weight - own.delta) * cap_slope(capped(params.scale * score));
}

// Stores 64 columns of keys first .. end, at most 8.
fn store(first: u32, end: u32, start: u32, stride: u32, c: u32, of_keys: Sums, of_values: Sums) {
    var near_k = of_keys.near;
    var far_k = of_keys.far;
    var near_v = of_values.near;
    var far_v = of_values.far;
    for (var j = first; j < end; j++) {
        if c < HEAD_VEC4 {
            let at = j * stride + start + c;
            d_k[at] = params.scale * near_k[0];
            d_k[at + 1u] = params.scale * far_k[0];
            d_v[at] = near_v[0];
            d_v[at + 1u] = far_v[0];
        }
        near_k = next(near_k);
        far_k = next(far_k);
        near_v = next(near_v);
        far_v = next(far_v);
    }
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let vectors = params.rows * params.group; // query vectors of a key head
    let blocks = (params.rows + ROWS - 1u) / ROWS;
    let block = params.first_block + group.y * groups.x + group.x;
    let key_head = block / blocks;
    let key_heads = params.heads / params.group;
    if key_head >= key_heads {
        return;
    }
    let key_stride = key_heads * HEAD_VEC4;
    let key_start = key_head * HEAD_VEC4;
    let first_key = block % blocks * ROWS;

    // The lane's keys; past the end, the last one, computed but not stored.
    let start0 = min(first_key + lane, params.rows - 1u) * key_stride + key_start;
    let start1 = min(first_key + 8u + lane, params.rows - 1u) * key_stride + key_start;

    // Of d_score q, and of weight d_out. Second keys, or in larger heads columns from 64 on.
    var of_keys0: Sums;
    var of_keys1: Sums;
    var of_keys2: Sums;
    var of_keys3: Sums;
    var of_values0: Sums;
    var of_values1: Sums;
    var of_values2: Sums;
    var of_values3: Sums;
    for (var base = first_key * params.group; base < vectors; base += 32u) {
        if first_seen(segment_start[base / params.group], base / params.group) > first_key + ROWS - 1u {
            break; // this and all later rows belong to later segments, or their windows begin later
        }
        let own_vectors = base + 4u * lane + vec4u(0u, 1u, 2u, 3u);
        let starts = starts_of(min(own_vectors, vec4u(vectors - 1u)), key_head);
        var scores0: EightRows;
        var scores1: EightRows;
        for (var c = 0u; c < HEAD_VEC4; c += 2u) {
            let queries = queries_at(starts + c);
            scores0 = add_scores(scores0, eight_of(k[(start0 + c) / 2u]), queries);
            if ROWS >= 16u {
                scores1 = add_scores(scores1, eight_of(k[(start1 + c) / 2u]), queries);
            }
        }
        var d_weights0: EightRows;
        var d_weights1: EightRows;
        for (var c = 0u; c < HEAD_VEC4; c += 2u) {
            let d_outputs = d_outputs_at(starts + c);
            d_weights0 = add_scores(d_weights0, eight_of(v[(start0 + c) / 2u]), d_outputs);
            if ROWS >= 16u {
                d_weights1 = add_scores(d_weights1, eight_of(v[(start1 + c) / 2u]), d_outputs);
            }
        }
        let own = own_of(own_vectors, vectors, starts);
        let weights0 = weights_of(scores0, first_key, own);
        let d_scores0 = d_scores_of(scores0, weights0, d_weights0, own);
        var weights1: EightRows;
        var d_scores1: EightRows;
        if ROWS >= 16u {
            weights1 = weights_of(scores1, first_key + 8u, own);
            d_scores1 = d_scores_of(scores1, weights1, d_weights1, own);
        }

        let sources = (min(base + 32u, vectors) - base + 3u) / 4u; // lanes that hold query vectors
        for (var source = 0u; source < sources; source++) {
            let spread0 = of_lane(d_scores0, source);
            let four = base + 4u * source + vec4u(0u, 1u, 2u, 3u);
            let q_starts = starts_of(min(four, vec4u(vectors - 1u)), key_head);
            let queries = queries_at(q_starts + column_of(0u, lane));
            of_keys0 = add_vectors(of_keys0, spread0, queries);
            if ROWS >= 16u {
                of_keys1 = add_vectors(of_keys1, of_lane(d_scores1, source), queries);
            }
            if HEAD_VEC4 > 16u {
                of_keys1 = add_vectors(of_keys1, spread0, queries_at(q_starts + column_of(1u, lane)));
            }
            if HEAD_VEC4 > 32u {
                of_keys2 = add_vectors(of_keys2, spread0, queries_at(q_starts + column_of(2u, lane)));
                of_keys3 = add_vectors(of_keys3, spread0, queries_at(q_starts + column_of(3u, lane)));
            }
        }
        for (var source = 0u; source < sources; source++) {
            let spread0 = of_lane(weights0, source);
            let four = base + 4u * source + vec4u(0u, 1u, 2u, 3u);
            let d_starts = starts_of(min(four, vec4u(vectors - 1u)), key_head);
            let d_outputs = d_outputs_at(d_starts + column_of(0u, lane));
            of_values0 = add_vectors(of_values0, spread0, d_outputs);
            if ROWS >= 16u {
                of_values1 = add_vectors(of_values1, of_lane(weights1, source), d_outputs);
            }
            if HEAD_VEC4 > 16u {
                of_values1 = add_vectors(of_values1, spread0, d_outputs_at(d_starts + column_of(1u, lane)));
            }
            if HEAD_VEC4 > 32u {
                of_values2 = add_vectors(of_values2, spread0, d_outputs_at(d_starts + column_of(2u, lane)));
                of_values3 = add_vectors(of_values3, spread0, d_outputs_at(d_starts + column_of(3u, lane)));
            }
        }
    }

    let c = 2u * lane;
    let end0 = min(first_key + 8u, params.rows);
    store(first_key, end0, key_start, key_stride, c, of_keys0, of_values0);
    if ROWS >= 16u {
        store(first_key + 8u, min(first_key + 16u, params.rows), key_start, key_stride, c, of_keys1, of_values1);
    }
    if HEAD_VEC4 > 16u {
        store(first_key, end0, key_start, key_stride, c + 16u, of_keys1, of_values1);
    }
    if HEAD_VEC4 > 32u {
        store(first_key, end0, key_start, key_stride, c + 32u, of_keys2, of_values2);
        store(first_key, end0, key_start, key_stride, c + 48u, of_keys3, of_values3);
    }
}
