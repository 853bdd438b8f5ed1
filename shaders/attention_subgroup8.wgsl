// uses: subgroup8_blocks, soft_cap, window
// attention for drivers with subgroups of exactly 8 (CPU drivers such as lavapipe): the algorithm of attention.wgsl on tiles of 16 query vectors
// (8 for heads of more than 64 columns) and 32 keys. One workgroup is one subgroup and owns the query vectors, a query vector being one
// (row, query head) of those that share a key/value head. It walks over the keys that any of them sees, 32 at a time from where each segment
// begins (so that a row's sums are grouped, and rounded, the same whatever else is packed beside its segment):
//   scores   lane = 4 keys: their columns are the lane's own, those of the query vectors, one a lane, are spread
//   softmax  lane = query vector: largest score and the sum of weights, gathered from all lanes
//   output   lane = 8 columns: of four keys at a time each lane loads its columns of the values; the weights are spread
// Why it is fast there: a load is made lane by lane, whether lanes share its address or not, and costs many times what a shuffle does; a tile
// of 64 columns takes 80 loads for 8,192 multiply-adds a lane. Both inner loops are short enough for the CPU's cache of instructions.
// Traffic: reads q and writes out and lse once; k and v are read once for every 16 (8) query vectors.
// Accumulates in f32, in the order of the keys; no barriers, no workgroup memory.

struct Params { rows: u32, keys: u32, heads: u32, group: u32, scale: f32, window: u32, first_block: u32 }

override HEAD_VEC4: u32 = 16; // columns of a head / 4
const UNSEEN = -1e30;         // score of a key that a query vector does not see

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<u64>>;      // [rows, heads * HEAD_VEC4 / 2]
@group(0) @binding(2) var<storage, read> k: array<vec4<u64>>;      // [keys, heads / group * HEAD_VEC4 / 2]
@group(0) @binding(3) var<storage, read> v: array<vec4<u64>>;      // as k
@group(0) @binding(4) var<storage, read> position: array<u32>;      // [rows]
@group(0) @binding(5) var<storage, read> segment_start: array<u32>; // [rows], never falling
@group(0) @binding(6) var<storage, read_write> out: array<vec4f>;   // as q
@group(0) @binding(7) var<storage, read_write> lse: array<f32>;     // [rows, heads]

// A query vector: where it begins in q and out, and which keys it sees.
struct Own {
    start: u32,
    first: u32,
    last: u32,
}

// Of the keys so far.
struct Softmax {
    largest: f32, // score
    total: f32,   // of exp(score - largest)
}

fn start_of(vector: u32, key_head: u32) -> u32 {
    return (vector / params.group * params.heads + key_head * params.group + vector % params.group) * HEAD_VEC4;
}

fn own_of(vector: u32, key_head: u32) -> Own {
    let row = vector / params.group;
    let own = segment_start[row] + position[row];
    return Own(start_of(vector, key_head), first_seen(segment_start[row], own), min(own, params.keys - 1u));
}

fn keys_at(at: vec4u) -> FourEights {
    return four_eights(eight_of(k[at.x / 2u]), eight_of(k[at.y / 2u]), eight_of(k[at.z / 2u]), eight_of(k[at.w / 2u]));
}

fn values_at(at: vec4u) -> FourEights {
    return four_eights(eight_of(v[at.x / 2u]), eight_of(v[at.y / 2u]), eight_of(v[at.z / 2u]), eight_of(v[at.w / 2u]));
}

// The scores as the softmax takes them: row i sees `count` keys from `first` on, as lane i says.
fn seen(scores: EightRows, keys: vec4u, first: u32, count: u32) -> EightRows {
    return EightRows(
        seen_by(scores[0], keys - subgroupBroadcast(first, 0u), subgroupBroadcast(count, 0u)),
        seen_by(scores[1], keys - subgroupBroadcast(first, 1u), subgroupBroadcast(count, 1u)),
        seen_by(scores[2], keys - subgroupBroadcast(first, 2u), subgroupBroadcast(count, 2u)),
        seen_by(scores[3], keys - subgroupBroadcast(first, 3u), subgroupBroadcast(count, 3u)),
        seen_by(scores[4], keys - subgroupBroadcast(first, 4u), subgroupBroadcast(count, 4u)),
        seen_by(scores[5], keys - subgroupBroadcast(first, 5u), subgroupBroadcast(count, 5u)),
        seen_by(scores[6], keys - subgroupBroadcast(first, 6u), subgroupBroadcast(count, 6u)),
        seen_by(scores[7], keys - subgroupBroadcast(first, 7u), subgroupBroadcast(count, 7u)),
    );
}

// Keys before the first one lie more than any count behind it: u32 wraps.
fn seen_by(scores: vec4f, behind_first: vec4u, count: u32) -> vec4f {
    return select(vec4f(UNSEEN), capped(params.scale * scores), behind_first < vec4u(count));
}

fn weights_of(scores: EightRows, largest: f32) -> EightRows {
    return EightRows(
        weight(scores[0], subgroupBroadcast(largest, 0u)),
        weight(scores[1], subgroupBroadcast(largest, 1u)),
        weight(scores[2], subgroupBroadcast(largest, 2u)),
        weight(scores[3], subgroupBroadcast(largest, 3u)),
        weight(scores[4], subgroupBroadcast(largest, 4u)),
        weight(scores[5], subgroupBroadcast(largest, 5u)),
        weight(scores[6], subgroupBroadcast(largest, 6u)),
        weight(scores[7], subgroupBroadcast(largest, 7u)),
    );
}

// Before a row sees its first key, UNSEEN - largest is 0: hence the select.
fn weight(score: vec4f, largest: f32) -> vec4f {
    return select(vec4f(), exp(score - largest), score > vec4f(UNSEEN));
}

// In lane i what is `a` in even and `b` in odd multiples of `step` lanes, and the same of the lane `step` away.
fn exchanged(a: f32, b: f32, lane: u32, step: u32) -> vec2f {
    let is_odd = (lane & step) != 0u;
    return vec2f(select(a, b, is_odd), subgroupShuffle(select(b, a, is_odd), lane ^ step));
}

fn larger(a: f32, b: f32, lane: u32, step: u32) -> f32 {
    let two = exchanged(a, b, lane, step);
    return max(two.x, two.y);
}

fn sum(a: f32, b: f32, lane: u32, step: u32) -> f32 {
    let two = exchanged(a, b, lane, step);
    return two.x + two.y;
}

// In lane i the largest number of row i, over all lanes.
fn largest_in_rows(rows: EightRows, lane: u32) -> f32 {
    let a = larger(largest_of(rows[0]), largest_of(rows[1]), lane, 1u);
    let b = larger(largest_of(rows[2]), largest_of(rows[3]), lane, 1u);
    let c = larger(largest_of(rows[4]), largest_of(rows[5]), lane, 1u);
    let d = larger(largest_of(rows[6]), largest_of(rows[7]), lane, 1u);
    return larger(larger(a, b, lane, 2u), larger(c, d, lane, 2u), lane, 4u);
}

fn largest_of(x: vec4f) -> f32 {
    return max(max(x.x, x.y), max(x.z, x.w));
}

// In lane i the sum of row i, over all lanes.
fn sums_of_rows(rows: EightRows, lane: u32) -> f32 {
    let a = sum(sum_of(rows[0]), sum_of(rows[1]), lane, 1u);
    let b = sum(sum_of(rows[2]), sum_of(rows[3]), lane, 1u);
    let c = sum(sum_of(rows[4]), sum_of(rows[5]), lane, 1u);
    let d = sum(sum_of(rows[6]), sum_of(rows[7]), lane, 1u);
    return sum(sum(a, b, lane, 2u), sum(c, d, lane, 2u), lane, 4u);
}

fn sum_of(x: vec4f) -> f32 {
    return dot(x, vec4f(1.0));
}

// Stores 64 columns of query vectors first .. end, at most 8.
fn store(first: u32, end: u32, key_head: u32, c: u32, outputs: Sums) {
    var near = outputs.near;
    var far = outputs.far;
    for (var i = first; i < end; i++) {
        if c < HEAD_VEC4 {
            let at = start_of(i, key_head) + c;
            out[at] = near[0];
            out[at + 1u] = far[0];
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
    let first_row = first_vector / params.group;
    let last_row = min(first_vector + ROWS - 1u, vectors - 1u) / params.group;
    let first_segment = segment_start[first_row];
    let skipped = first_seen(first_segment, first_segment + position[first_row]) - first_segment; // keys before the first one's window
    let begin = first_segment + skipped / 32u * 32u;
    let last_segment = segment_start[last_row];
    let end = min(last_segment + position[last_row] + 1u, params.keys);

    // Of exp(score - largest): how much in all, and v. Second rows, or in larger heads columns from 64 on.
    var largest0 = UNSEEN;
    var largest1 = UNSEEN;
    var total0 = 0.0;
    var total1 = 0.0;
    var sums0: Sums;
    var sums1: Sums;
    var sums2: Sums;
    var sums3: Sums;
    var after = begin; // first key after the block of keys
    for (var base = begin; base < end; base = after) {
        after = min(base + 32u, end);
        if base < last_segment {
            var row = first_row;
            while segment_start[row] <= base {
                row++;
            }
            after = min(after, segment_start[row]);
        }
        let keys = base + 4u * lane + vec4u(0u, 1u, 2u, 3u);
        let k_starts = min(keys, vec4u(params.keys - 1u)) * key_stride + key_start;
        var scores0: EightRows;
        var scores1: EightRows;
        for (var c = 0u; c < HEAD_VEC4; c += 2u) {
            let own_keys = keys_at(k_starts + c);
            scores0 = add_scores(scores0, eight_of(q[(own0.start + c) / 2u]), own_keys);
            if ROWS >= 16u {
                scores1 = add_scores(scores1, eight_of(q[(own1.start + c) / 2u]), own_keys);
            }
        }

        scores0 = seen(scores0, keys, own0.first, max(min(own0.last + 1u, after), own0.first) - own0.first);
        let larger0 = max(largest0, largest_in_rows(scores0, lane));
        let shrink0 = exp(largest0 - larger0);
        largest0 = larger0;
        scores0 = weights_of(scores0, larger0);
        total0 = total0 * shrink0 + sums_of_rows(scores0, lane);
        sums0 = scaled(sums0, shrink0);
        if ROWS >= 16u {
            scores1 = seen(scores1, keys, own1.first, max(min(own1.last + 1u, after), own1.first) - own1.first);
            let larger1 = max(largest1, largest_in_rows(scores1, lane));
            let shrink1 = exp(largest1 - larger1);
            largest1 = larger1;
            scores1 = weights_of(scores1, larger1);
            total1 = total1 * shrink1 + sums_of_rows(scores1, lane);
            sums1 = scaled(sums1, shrink1);
        }
        if HEAD_VEC4 > 16u {
            sums1 = scaled(sums1, shrink0);
        }
        if HEAD_VEC4 > 32u {
            sums2 = scaled(sums2, shrink0);
            sums3 = scaled(sums3, shrink0);
        }

        for (var source = 0u; source < (after - base + 3u) / 4u; source++) {
            let weights0 = of_lane(scores0, source);
            let four = base + 4u * source + vec4u(0u, 1u, 2u, 3u);
            let v_starts = min(four, vec4u(params.keys - 1u)) * key_stride + key_start;
            let values = values_at(v_starts + column_of(0u, lane));
            sums0 = add_vectors(sums0, weights0, values);
            if ROWS >= 16u {
                sums1 = add_vectors(sums1, of_lane(scores1, source), values);
            }
            if HEAD_VEC4 > 16u {
                sums1 = add_vectors(sums1, weights0, values_at(v_starts + column_of(1u, lane)));
            }
            if HEAD_VEC4 > 32u {
                sums2 = add_vectors(sums2, weights0, values_at(v_starts + column_of(2u, lane)));
                sums3 = add_vectors(sums3, weights0, values_at(v_starts + column_of(3u, lane)));
            }
        }
    }

    let c = 2u * lane;
    let end0 = min(first_vector + 8u, vectors);
    store(first_vector, end0, key_head, c, scaled(sums0, 1.0 / total0));
    if ROWS >= 16u {
        store(first_vector + 8u, min(first_vector + 16u, vectors), key_head, c, scaled(sums1, 1.0 / total1));
    }
    if HEAD_VEC4 > 16u {
        store(first_vector, end0, key_head, c + 16u, scaled(sums1, 1.0 / total0));
    }
    if HEAD_VEC4 > 32u {
        store(first_vector, end0, key_head, c + 32u, scaled(sums2, 1.0 / total0));
        store(first_vector, end0, key_head, c + 48u, scaled(sums3, 1.0 / total0));
    }
    if first_vector + lane < vectors {
        lse[own0.start / HEAD_VEC4] = largest0 + log(total0);
    }
    if ROWS >= 16u && first_vector + 8u + lane < vectors {
        lse[own1.start / HEAD_VEC4] = largest1 + log(total1);
    }
}
