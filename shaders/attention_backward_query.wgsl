// uses: attention_tile, soft_cap, window
// attention_backward_query: d_q[i] = scale sum_j p_ij (d_out_i . v_j - delta_i) cap'_ij k_j with p_ij = exp(s_ij - lse_i) and
// s_ij = cap(scale q_i . k_j), over the keys j <= i that row i sees.
// Algorithm: that of attention.wgsl, with known log-sum-exps: a workgroup owns 32 query vectors and walks over the keys that any of them sees in
// blocks: scores, and products of d_out and v in the same way; from both the gradients of the scores; and the sums of keys weighted by these.
// Traffic: reads k twice and v once for every 32 query vectors, q and d_out once for every block of keys; writes d_q once.
// Accumulates in f32, in the order of the blocks, which are counted from where the first row's segment begins.

struct Params { rows: u32, heads: u32, group: u32, scale: f32, window: u32, first_block: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4f>;            // [rows, heads * HEAD_VEC4]
@group(0) @binding(2) var<storage, read> k: array<vec4f>;            // [rows, heads / group * HEAD_VEC4]
@group(0) @binding(3) var<storage, read> v: array<vec4f>;            // as k
@group(0) @binding(4) var<storage, read> statistics: array<vec2f>;   // [rows, heads]: lse, delta
@group(0) @binding(5) var<storage, read> d_out: array<vec4f>;        // as q
@group(0) @binding(6) var<storage, read> segment_start: array<u32>;  // [rows], never falling
@group(0) @binding(7) var<storage, read_write> d_q: array<vec4f>;    // as q

var<workgroup> own_starts: array<u32, 32>; // where the query vectors begin in q

// p (d_out . v - delta) cap' of one row and four keys, from their scores and products of d_out and v; 0 for a key that is not seen.
fn d_scores(scores: vec4f, products: vec4f, statistic: vec2f, key: vec4u, first: u32, last: u32) -> vec4f {
    let score = capped(params.scale * scores);
    let weights = exp(select(vec4f(UNSEEN), score - statistic.x, (key >= vec4u(first)) & (key <= vec4u(last))));
    return weights * (products - statistic.y) * cap_slope(score);
}

// Of a block: its first key, and in k and v where the key head begins in a row, and the length of a row.
struct Tile { base: u32, head_start: u32, stride: u32 }

fn own_vec4(tile: Tile, which: u32, column: u32, second: bool) -> vec4f {
    if second {
        return d_out[own_starts[which] + column];
    }
    return q[own_starts[which] + column];
}

fn other_vec4(tile: Tile, which: u32, column: u32, second: bool) -> vec4f {
    let at = min(tile.base + which, params.rows - 1u) * tile.stride + tile.head_start + column;
    if second {
        return v[at];
    }
    return k[at];
}

@compute @workgroup_size(LANES, 8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_id) id: vec3u) {
    let lane = id.xy;
    let vectors = params.rows * params.group; // query vectors of a key head
    let blocks = (vectors + 31u) / 32u;
    let block = params.first_block + group.y * groups.x + group.x;
    let key_head = block / blocks;
    let key_stride = params.heads / params.group * HEAD_VEC4;
    if key_head * HEAD_VEC4 >= key_stride {
        return;
    }
    let first_vector = block % blocks * 32u;

    // The invocation's query vectors; past the end, the last one, computed but not stored.
    let vector = min(vec4u(first_vector + lane.y) + vec4u(0u, 8u, 16u, 24u), vec4u(vectors - 1u));
    let row = vector / params.group;
    let statistic_at = row * params.heads + key_head * params.group + vector % params.group;
    if lane.x == 0u {
        own_starts[lane.y] = statistic_at.x * HEAD_VEC4;
        own_starts[lane.y + 8u] = statistic_at.y * HEAD_VEC4;
        own_starts[lane.y + 16u] = statistic_at.z * HEAD_VEC4;
        own_starts[lane.y + 24u] = statistic_at.w * HEAD_VEC4;
    }
    let first = vec4u(
        first_seen(segment_start[row.x], row.x),
        first_seen(segment_start[row.y], row.y),
        first_seen(segment_start[row.z], row.z),
        first_seen(segment_start[row.w], row.w),
    );
    // Rows are in order, so the first one of the block sees the first key, and the last one the last.
    let step = 4u * SCORE_LANES;
    let first_row = first_vector / params.group;
    let first_segment = segment_start[first_row];
    let skipped = first_seen(first_segment, first_row) - first_segment; // keys before the first one's window
    let end = min(first_vector + 31u, vectors - 1u) / params.group;

    let near = min(lane.x, HEAD_VEC4 - 1u);
    let far = min(lane.x + LANES, HEAD_VEC4 - 1u);
    var sum_near = mat4x4f(); // of d_score k
    var sum_far = mat4x4f();
    for (var base = first_segment + skipped / step * step; base <= end; base += step) {
        let tile = Tile(base, key_head * HEAD_VEC4, key_stride);
        var scores = mat4x4f();
        var products = mat4x4f();
        for (var c = 0u; c < HEAD_VEC4; c += CHUNK) {
            workgroupBarrier();
            stage(tile, lane, c, false);
            workgroupBarrier();
            scores = add_scores(scores, lane, min(CHUNK, HEAD_VEC4 - c));
            workgroupBarrier();
            stage(tile, lane, c, true);
            workgroupBarrier();
            products = add_scores(products, lane, min(CHUNK, HEAD_VEC4 - c));
        }
        let key = vec4u(base + lane.x) + vec4u(0u, SCORE_LANES, 2u * SCORE_LANES, 3u * SCORE_LANES);
        let weights = mat4x4f(
            d_scores(scores[0], products[0], statistics[statistic_at.x], key, first.x, row.x),
            d_scores(scores[1], products[1], statistics[statistic_at.y], key, first.y, row.y),
            d_scores(scores[2], products[2], statistics[statistic_at.z], key, first.z, row.z),
            d_scores(scores[3], products[3], statistics[statistic_at.w], key, first.w, row.w),
        );
        workgroupBarrier();
        store_weights(weights, lane);
        workgroupBarrier();
        for (var x = 0u; x < min(SCORE_LANES, end - base + 1u); x++) {
            let at = min(vec4u(base + x) + vec4u(0u, SCORE_LANES, 2u * SCORE_LANES, 3u * SCORE_LANES), vec4u(params.rows - 1u)) * key_stride
                + key_head * HEAD_VEC4;
            let weights = weights_of(x, lane.y);
            sum_near = add_product(sum_near, mat4x4f(k[at.x + near], k[at.y + near], k[at.z + near], k[at.w + near]), weights);
            sum_far = add_product(sum_far, mat4x4f(k[at.x + far], k[at.y + far], k[at.z + far], k[at.w + far]), weights);
        }
    }

    for (var i = 0u; i < 4u; i++) {
        if first_vector + lane.y + 8u * i < vectors {
            let start = own_starts[lane.y + 8u * i];
            if lane.x < HEAD_VEC4 {
                d_q[start + lane.x] = params.scale * sum_near[i];
            }
            if lane.x + LANES < HEAD_VEC4 {
                d_q[start + lane.x + LANES] = params.scale * sum_far[i];
            }
        }
    }
}
