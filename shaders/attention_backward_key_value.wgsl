// uses: attention_tile, soft_cap, window
// attention_backward_key_value: d_v[j] = sum_i p_ij d_out_i and d_k[j] = scale sum_i p_ij (d_out_i . v_j - delta_i) cap'_ij q_i with
// p_ij = exp(s_ij - lse_i) and s_ij = cap(scale q_i . k_j), over the rows i >= j that see j and the query heads of j's group.
// Algorithm: that of attention_backward_query.wgsl the other way round: a workgroup owns 32 keys of a key head and, for each query head of the
// group, walks over the rows that see any of them in blocks: scores; for d_k, products of v and d_out in the same way; and the sums of d_out
// weighted by p, or of q by the gradients of the scores. Rows are in order of their segments, so the walk ends at the first row of the next
// segment, or at the first one whose window begins after the last key. One dispatch makes d_k and another d_v: the sums of both together are
// more than the registers of Intel's and Apple's GPUs hold, which costs more than the scores that are computed twice.
// Traffic: reads q and d_out once or twice for every 32 keys, k and v once for every block of rows; writes the gradient once.
// Accumulates in f32, query head by query head, in the order of the blocks; no atomics.

struct Params { rows: u32, heads: u32, group: u32, scale: f32, window: u32, first_block: u32 }

override OF_KEY: u32 = 1u; // the gradient is that of k; else that of v

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4f>;            // [rows, heads * HEAD_VEC4]
@group(0) @binding(2) var<storage, read> k: array<vec4f>;            // [rows, heads / group * HEAD_VEC4]
@group(0) @binding(3) var<storage, read> v: array<vec4f>;            // as k
@group(0) @binding(4) var<storage, read> statistics: array<vec2f>;   // [rows, heads]: lse, delta
@group(0) @binding(5) var<storage, read> d_out: array<vec4f>;        // as q
@group(0) @binding(6) var<storage, read> segment_start: array<u32>;  // [rows], never falling
@group(0) @binding(7) var<storage, read_write> gradient: array<vec4f>; // as k: d_k or d_v

// What one key counts in four rows, 0 in those that do not see it: p, or p (d_out . v - delta) cap'.
fn weights_of_key(scores: vec4f, products: vec4f, lse: vec4f, delta: vec4f, sees: vec4<bool>) -> vec4f {
    let score = capped(params.scale * scores);
    let weights = exp(select(vec4f(UNSEEN), score - lse, sees));
    if OF_KEY == 0u {
        return weights;
    }
    return weights * (products - delta) * cap_slope(score);
}

// What is summed: row vectors of q or d_out.
fn summed(at: vec4u) -> mat4x4f {
    if OF_KEY == 0u {
        return mat4x4f(d_out[at.x], d_out[at.y], d_out[at.z], d_out[at.w]);
    }
    return mat4x4f(q[at.x], q[at.y], q[at.z], q[at.w]);
}

// Of a block: the first own key and the first row, the number of key heads, the key head, and the query head.
struct Tile { first_key: u32, base: u32, key_heads: u32, key_head: u32, head: u32 }

fn own_vec4(tile: Tile, which: u32, column: u32, second: bool) -> vec4f {
    let at = (min(tile.first_key + which, params.rows - 1u) * tile.key_heads + tile.key_head) * HEAD_VEC4 + column;
    if second {
        return v[at];
    }
    return k[at];
}

fn other_vec4(tile: Tile, which: u32, column: u32, second: bool) -> vec4f {
    let at = (min(tile.base + which, params.rows - 1u) * params.heads + tile.head) * HEAD_VEC4 + column;
    if second {
        return d_out[at];
    }
    return q[at];
}

@compute @workgroup_size(LANES, 8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_id) id: vec3u) {
    let lane = id.xy;
    let blocks = (params.rows + 31u) / 32u;
    let block = params.first_block + group.y * groups.x + group.x;
    let key_head = block / blocks;
    let key_heads = params.heads / params.group;
    if key_head >= key_heads {
        return;
    }
    let first_key = block % blocks * 32u;
    let key = vec4u(first_key + lane.y) + vec4u(0u, 8u, 16u, 24u); // the invocation's; past the end, computed but not stored
    let step = 4u * SCORE_LANES;
    let near = min(lane.x, HEAD_VEC4 - 1u);
    let far = min(lane.x + LANES, HEAD_VEC4 - 1u);
    var sum_near = mat4x4f();
    var sum_far = mat4x4f();
    for (var head = key_head * params.group; head < (key_head + 1u) * params.group; head++) {
        for (var base = first_key; base < params.rows; base += step) {
            if first_seen(segment_start[base], base) > first_key + 31u {
                break; // this and all later rows belong to later segments, or their windows begin later
            }
            let tile = Tile(first_key, base, key_heads, key_head, head);
            var scores = mat4x4f();
            var products = mat4x4f();
            for (var c = 0u; c < HEAD_VEC4; c += CHUNK) {
                workgroupBarrier();
                stage(tile, lane, c, false);
                workgroupBarrier();
                scores = add_scores(scores, lane, min(CHUNK, HEAD_VEC4 - c));
                if OF_KEY == 0u {
                    continue;
                }
                workgroupBarrier();
                stage(tile, lane, c, true);
                workgroupBarrier();
                products = add_scores(products, lane, min(CHUNK, HEAD_VEC4 - c));
            }
            // Of the lane's rows: a row past the end sees no key.
            let row = vec4u(base + lane.x) + vec4u(0u, SCORE_LANES, 2u * SCORE_LANES, 3u * SCORE_LANES);
            let there = min(row, vec4u(params.rows - 1u));
            let first = select(
                vec4u(params.rows + 31u),
                vec4u(
                    first_seen(segment_start[there.x], there.x),
                    first_seen(segment_start[there.y], there.y),
                    first_seen(segment_start[there.z], there.z),
                    first_seen(segment_start[there.w], there.w),
                ),
                row < vec4u(params.rows),
            );
            let at = there * params.heads + head;
            let lse = vec4f(statistics[at.x].x, statistics[at.y].x, statistics[at.z].x, statistics[at.w].x);
            let delta = vec4f(statistics[at.x].y, statistics[at.y].y, statistics[at.z].y, statistics[at.w].y);
            let weights = mat4x4f(
                weights_of_key(scores[0], products[0], lse, delta, (vec4u(key.x) >= first) & (vec4u(key.x) <= row)),
                weights_of_key(scores[1], products[1], lse, delta, (vec4u(key.y) >= first) & (vec4u(key.y) <= row)),
                weights_of_key(scores[2], products[2], lse, delta, (vec4u(key.z) >= first) & (vec4u(key.z) <= row)),
                weights_of_key(scores[3], products[3], lse, delta, (vec4u(key.w) >= first) & (vec4u(key.w) <= row)),
            );
            workgroupBarrier();
            store_weights(weights, lane);
            workgroupBarrier();
            for (var x = 0u; x < min(SCORE_LANES, params.rows - base); x++) {
                let rows = min(vec4u(base + x) + vec4u(0u, SCORE_LANES, 2u * SCORE_LANES, 3u * SCORE_LANES), vec4u(params.rows - 1u));
                let at = (rows * params.heads + head) * HEAD_VEC4;
                let weights = weights_of(x, lane.y);
                sum_near = add_product(sum_near, summed(at + near), weights);
                sum_far = add_product(sum_far, summed(at + far), weights);
            }
        }
    }

    let scale = select(1.0, params.scale, OF_KEY != 0u);
    for (var i = 0u; i < 4u; i++) {
        if key[i] < params.rows {
            let start = (key[i] * key_heads + key_head) * HEAD_VEC4;
            if lane.x < HEAD_VEC4 {
                gradient[start + lane.x] = scale * sum_near[i];
            }
            if lane.x + LANES < HEAD_VEC4 {
                gradient[start + lane.x + LANES] = scale * sum_far[i];
            }
        }
    }
}
