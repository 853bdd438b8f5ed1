// uses: subgroup8_blocks, soft_cap, window
// attention_backward_query for drivers with subgroups of exactly 8: the algorithm of attention_backward_query.wgsl on tiles of 16 query vectors
// (8 for heads of more than 64 columns) and 32 keys, laid out over the lanes as in attention_subgroup8.wgsl, which also says why that
// is fast there.
// Traffic: reads q, d_out and the statistics once, writes d_q once; k is read twice and v once for every 16 (8) query vectors.
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

// A query vector: where it begins in q, d_out and d_q, which keys it sees, and its statistics.
struct Own {
    start: u32,
    first: u32,
    row: u32, // the last key, its own
    statistic: vec2f,
}

fn start_of(vector: u32, key_head: u32) -> u32 {
    return (vector / params.group * params.heads + key_head * params.group + vector % params.group) * HEAD_VEC4;
}

fn own_of(vector: u32, key_head: u32) -> Own {
    let row = vector / params.group;
    let start = start_of(vector, key_head);
    return Own(start, first_seen(segment_start[row], row), row, statistics[start / HEAD_VEC4]);
}

fn keys_at(at: vec4u) -> FourEights {
    return four_eights(eight_of(k[at.x / 2u]), eight_of(k[at.y / 2u]), eight_of(k[at.z / 2u]), eight_of(k[at.w / 2u]));
}

fn values_at(at: vec4u) -> FourEights {
    return four_eights(eight_of(v[at.x / 2u]), eight_of(v[at.y / 2u]), eight_of(v[at.z / 2u]), eight_of(v[at.w / 2u]));
}

// Gradients of the scores: of row i as lane i says what it sees.
fn d_scores_of(scores: EightRows, d_weights: EightRows, keys: vec4u, own: Own) -> EightRows {
    return EightRows(
        d_score(scores[0], d_weights[0], keys, own, 0u),
        d_score(scores[1], d_weights[1], keys, own, 1u),
        d_score(scores[2], d_weights[2], keys, own, 2u),
        d_score(scores[3], d_weights[3], keys, own, 3u),
        d_score(scores[4], d_weights[4], keys, own, 4u),
        d_score(scores[5], d_weights[5], keys, own, 5u),
        d_score(scores[6], d_weights[6], keys, own, 6u),
        d_score(scores[7], d_weights[7], keys, own, 7u),
    );
}

fn d_score(score: vec4f, d_weight: vec4f, keys: vec4u, own: Own, row: u32) -> vec4f {
    let first = vec4u(subgroupShuffle(own.first, row));
    let sees = (keys >= first) & (keys <= vec4u(subgroupShuffle(own.row, row)));
    let bent = capped(params.scale * score);
    let weight = exp(select(vec4f(UNSEEN), bent - subgroupShuffle(own.statistic.x, row), sees));
    return weight * (d_weight - subgroupShuffle(own.statistic.y, row)) * cap_slope(bent);
}

// Stores 64 columns of query vectors first .. end, at most 8.
fn store(first: u32, end: u32, key_head: u32, c: u32, sums: Sums) {
    var near = sums.near;
    var far = sums.far;
    for (var i = first; i < end; i++) {
        if c < HEAD_VEC4 {
            let at = start_of(i, key_head) + c;
            d_q[at] = params.scale * near[0];
            d_q[at + 1u] = params.scale * far[0];
        }
        near = next(near);
        far = next(far);
    }
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let vectors = params.rows * params.group; // query vectors of a key head
    let blocks = (vectors + ROWS - 1u) / ROWS;
    let block = params.first_block + group.y * groups.x + group.x;
    let key_head = block / blocks;
    let key_heads = params.heads / params.group;
    if key_head >= key_heads {
        return;
    }
    let key_stride = key_heads * HEAD_VEC4;
    let key_start = key_head * HEAD_VEC4;
    let first_vector = block % blocks * ROWS;

    // The lane's query vectors; past the end, the last one, computed but not stored.
    let own0 = own_of(min(first_vector + lane, vectors - 1u), key_head);
    let own1 = own_of(min(first_vector + 8u + lane, vectors - 1u), key_head);
    // Rows are in order, so the first one of the block sees the first key, and the last one the last.
    let first_segment = segment_start[first_vector / params.group];
    let skipped = first_seen(first_segment, first_vector / params.group) - first_segment; // keys before the first one's window
    let begin = first_segment + skipped / 32u * 32u;
    let end = min(first_vector + ROWS - 1u, vectors - 1u) / params.group + 1u;

    // Of d_score k. Second rows, or in larger heads columns from 64 on.
    var sums0: Sums;
    var sums1: Sums;
    var sums2: Sums;
    var sums3: Sums;
    for (var base = begin; base < end; base += 32u) {
        let keys = base + 4u * lane + vec4u(0u, 1u, 2u, 3u);
        let starts = min(keys, vec4u(params.rows - 1u)) * key_stride + key_start;
        var scores0: EightRows;
        var scores1: EightRows;
        for (var c = 0u; c < HEAD_VEC4; c += 2u) {
            let own_keys = keys_at(starts + c);
            scores0 = add_scores(scores0, eight_of(q[(own0.start + c) / 2u]), own_keys);
            if ROWS >= 16u {
                scores1 = add_scores(scores1, eight_of(q[(own1.start + c) / 2u]), own_keys);
            }
        }
        var d_weights0: EightRows;
        var d_weights1: EightRows;
        for (var c = 0u; c < HEAD_VEC4; c += 2u) {
            let own_values = values_at(starts + c);
            d_weights0 = add_scores(d_weights0, eight_of(d_out[(own0.start + c) / 2u]), own_values);
            if ROWS >= 16u {
                d_weights1 = add_scores(d_weights1, eight_of(d_out[(own1.start + c) / 2u]), own_values);
            }
        }
        let d_scores0 = d_scores_of(scores0, d_weights0, keys, own0);
        var d_scores1: EightRows;
        if ROWS >= 16u {
            d_scores1 = d_scores_of(scores1, d_weights1, keys, own1);
        }

        for (var source = 0u; source < (min(base + 32u, end) - base + 3u) / 4u; source++) {
            let spread0 = of_lane(d_scores0, source);
            let four = base + 4u * source + vec4u(0u, 1u, 2u, 3u);
            let k_starts = min(four, vec4u(params.rows - 1u)) * key_stride + key_start;
            let vectors0 = keys_at(k_starts + column_of(0u, lane));
            sums0 = add_vectors(sums0, spread0, vectors0);
            if ROWS >= 16u {
                sums1 = add_vectors(sums1, of_lane(d_scores1, source), vectors0);
            }
            if HEAD_VEC4 > 16u {
                sums1 = add_vectors(sums1, spread0, keys_at(k_starts + column_of(1u, lane)));
            }
            if HEAD_VEC4 > 32u {
                sums2 = add_vectors(sums2, spread0, keys_at(k_starts + column_of(2u, lane)));
                sums3 = add_vectors(sums3, spread0, keys_at(k_starts + column_of(3u, lane)));
            }
        }
    }

    let c = 2u * lane;
    let end0 = min(first_vector + 8u, vectors);
    store(first_vector, end0, key_head, c, sums0);
    if ROWS >= 16u {
        store(first_vector + 8u, min(first_vector + 16u, vectors), key_head, c, sums1);
    }
    if HEAD_VEC4 > 16u {
        store(first_vector, end0, key_head, c + 16u, sums1);
    }
    if HEAD_VEC4 > 32u {
        store(first_vector, end0, key_head, c + 32u, sums2);
        store(first_vector, end0, key_head, c + 48u, sums3);
    }
}
