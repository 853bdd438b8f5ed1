// uses: spread_lanes, wide_loads, subgroup8_blocks, {head}, soft_cap, window
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

// Where query vector `vector` of key head `key_head` begins in q and d_out.
fn start_of(vector: u32, key_head: u32) -> u32 {
    return (vector / params.group * params.heads + key_head * params.group + vector % params.group) * HEAD_VEC4;
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

    var sum_k: array<EightVectors, SLOTS>; // of d_score q
    var sum_v: array<EightVectors, SLOTS>; // of weight d_out
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
            scores_low += products_low(own_key.near, query.near);
            scores_low += products_low(own_key.far, query.far);
            scores_high += products_high(own_key.near, query.near);
            scores_high += products_high(own_key.far, query.far);
            d_low += products_low(own_value.near, d_output.near);
            d_low += products_low(own_value.far, d_output.far);
            d_high += products_high(own_value.near, d_output.near);
            d_high += products_high(own_value.far, d_output.far);
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

        for (var i = 0u; i < 8u; i++) {
            let weight = select(weights_low, weights_high, i >= 4u)[i % 4u];
            let d_score = select(d_scores_low, d_scores_high, i >= 4u)[i % 4u];
            let start = start_of(min(base + i, vectors - 1u), key_head);
            // Two loops: the driver unrolls them, which keeps the sums in registers, only if they are short.
            for (var slot = 0u; slot < SLOTS; slot += 2u) {
                if slot * 8u < HEAD_VEC4 {
                    let query = eight_of(q[(start + column_of(slot, lane)) / 2u]);
                    sum_k[slot] = add_products(sum_k[slot], d_score, query.near);
                    sum_k[slot + 1u] = add_products(sum_k[slot + 1u], d_score, query.far);
                }
            }
            for (var slot = 0u; slot < SLOTS; slot += 2u) {
                if slot * 8u < HEAD_VEC4 {
                    let d_output = eight_of(d_out[(start + column_of(slot, lane)) / 2u]);
                    sum_v[slot] = add_products(sum_v[slot], weight, d_output.near);
                    sum_v[slot + 1u] = add_products(sum_v[slot + 1u], weight, d_output.far);
                }
            }
        }
    }

    for (var slot = 0u; slot < SLOTS; slot++) {
        if slot / 2u * 16u < HEAD_VEC4 {
            let c = slot / 2u * 16u + 2u * lane + slot % 2u;
            var outputs = sum_k[slot];
            for (var j = first_key; j < min(first_key + 8u, params.rows); j++) {
                if c < HEAD_VEC4 {
                    d_k[j * key_stride + key_head * HEAD_VEC4 + c] = params.scale * outputs[0];
                }
                outputs = next(outputs);
            }
        }
    }
    for (var slot = 0u; slot < SLOTS; slot++) {
        if slot / 2u * 16u < HEAD_VEC4 {
            let c = slot / 2u * 16u + 2u * lane + slot % 2u;
            var outputs = sum_v[slot];
            for (var j = first_key; j < min(first_key + 8u, params.rows); j++) {
                if c < HEAD_VEC4 {
                    d_v[j * key_stride + key_head * HEAD_VEC4 + c] = outputs[0];
                }
                outputs = next(outputs);
            }
        }
    }
}
