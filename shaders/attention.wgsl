// uses: attention_tile, soft_cap, window
// attention: out = softmax(cap(scale q k^T)) v over the keys that a row sees, and the log-sum-exp of these scores.
// Algorithm: flash attention (Dao 2022) with the online softmax of Milakov & Gimelshein (2018). A workgroup owns 32 query vectors, a query
// vector being one (row, query head) of those that share a key/value head, and walks over the keys that any of them sees in blocks: scores, by
// way of workgroup memory; the largest of each row so far, by which sums are rescaled; weights; and the sums of weighted values. A block ends
// where a segment does, so that a row's sums are grouped, and rounded, the same whatever else is packed beside its segment.
// Traffic: reads k and v once for every 32 query vectors, and q once for every block of keys; writes out and lse once.
// Accumulates in f32, in the order of the blocks.

struct Params { rows: u32, keys: u32, heads: u32, group: u32, scale: f32, window: u32, first_block: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4f>;               // [rows, heads * HEAD_VEC4]
@group(0) @binding(2) var<storage, read> k: array<vec4f>;               // [keys, heads / group * HEAD_VEC4]
@group(0) @binding(3) var<storage, read> v: array<vec4f>;               // as k
@group(0) @binding(4) var<storage, read> position: array<u32>;          // [rows]
@group(0) @binding(5) var<storage, read> segment_start: array<u32>;     // [rows], never falling
@group(0) @binding(6) var<storage, read_write> out: array<vec4f>;       // as q
@group(0) @binding(7) var<storage, read_write> lse: array<f32>;         // [rows, heads]

var<workgroup> own_starts: array<u32, 32>;                  // where the query vectors begin in q
var<workgroup> of_lanes: array<vec4f, 8u * SCORE_LANES>;    // a number of each lane for each of its own rows

// Of a block: its first key, and in k where the key head begins in a row, and the length of a row.
struct Tile { base: u32, head_start: u32, stride: u32 }

fn own_vec4(tile: Tile, which: u32, column: u32, second: bool) -> vec4f {
    return q[own_starts[which] + column];
}

fn other_vec4(tile: Tile, which: u32, column: u32, second: bool) -> vec4f {
    return k[min(tile.base + which, params.keys - 1u) * tile.stride + tile.head_start + column];
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
    let start = (row * params.heads + key_head * params.group + vector % params.group) * HEAD_VEC4;
    if lane.x == 0u {
        own_starts[lane.y] = start.x;
        own_starts[lane.y + 8u] = start.y;
        own_starts[lane.y + 16u] = start.z;
        own_starts[lane.y + 24u] = start.w;
    }
    let segment = vec4u(segment_start[row.x], segment_start[row.y], segment_start[row.z], segment_start[row.w]);
    let own = segment + vec4u(position[row.x], position[row.y], position[row.z], position[row.w]);
    let first = vec4u(first_seen(segment.x, own.x), first_seen(segment.y, own.y), first_seen(segment.z, own.z), first_seen(segment.w, own.w));
    let last = min(own, vec4u(params.keys - 1u));
    // Rows are in order, so the first one of the block sees the first key, and the last one the last.
    let first_row = first_vector / params.group;
    let last_row = min(first_vector + 31u, vectors - 1u) / params.group;
    let first_segment = segment_start[first_row];
    let skipped = first_seen(first_segment, first_segment + position[first_row]) - first_segment; // keys before the first one's window
    let last_segment = segment_start[last_row];
    let end = min(last_segment + position[last_row], params.keys - 1u);

    let near = min(lane.x, HEAD_VEC4 - 1u);
    let far = min(lane.x + LANES, HEAD_VEC4 - 1u);
    let step = 4u * SCORE_LANES;
    var largest = vec4f(UNSEEN);
    var total = vec4f(); // of exp(score - largest), over the invocation's scores
    var sum_near = mat4x4f(); // of exp(score - largest) v
    var sum_far = mat4x4f();
    var segment_row = first_row; // of the first row whose segment begins after the block
    var after = first_segment + skipped / step * step; // first key after the block
    while after <= end {
        let base = after;
        while segment_row < last_row && segment_start[segment_row] <= base {
            segment_row++;
        }
        let next_segment = segment_start[segment_row];
        after = select(base + step, min(base + step, next_segment), next_segment > base);

        let present = min(SCORE_LANES, end - base + 1u); // lanes of which a key is there

        var scores = mat4x4f();
        for (var c = 0u; c < HEAD_VEC4; c += CHUNK) {
            workgroupBarrier();
            stage(Tile(base, key_head * HEAD_VEC4, key_stride), lane, c, false);
            workgroupBarrier();
            if lane.x < SCORE_LANES {
                scores = add_scores(scores, lane, min(CHUNK, HEAD_VEC4 - c));
            }
        }
        let key = vec4u(base + lane.x) + vec4u(0u, SCORE_LANES, 2u * SCORE_LANES, 3u * SCORE_LANES);
        let of_block = (key < vec4u(after)) & vec4<bool>(lane.x < SCORE_LANES);
        scores = mat4x4f(
            select(vec4f(UNSEEN), capped(params.scale * scores[0]), of_block & (key >= vec4u(first.x)) & (key <= vec4u(last.x))),
            select(vec4f(UNSEEN), capped(params.scale * scores[1]), of_block & (key >= vec4u(first.y)) & (key <= vec4u(last.y))),
            select(vec4f(UNSEEN), capped(params.scale * scores[2]), of_block & (key >= vec4u(first.z)) & (key <= vec4u(last.z))),
            select(vec4f(UNSEEN), capped(params.scale * scores[3]), of_block & (key >= vec4u(first.w)) & (key <= vec4u(last.w))),
        );
        if lane.x < SCORE_LANES {
            let by_key = transpose(scores);
            of_lanes[lane.y * SCORE_LANES + lane.x] = max(max(by_key[0], by_key[1]), max(by_key[2], by_key[3]));
        }
        workgroupBarrier();
        var larger = largest;
        for (var x = 0u; x < present; x++) {
            larger = max(larger, of_lanes[lane.y * SCORE_LANES + x]);
        }
        let shrink = exp(largest - larger);
        largest = larger;
        // Before a row sees its first key, UNSEEN - larger is 0: hence the second select.
        let weights = mat4x4f(
            select(vec4f(), exp(scores[0] - larger.x), scores[0] > vec4f(UNSEEN)),
            select(vec4f(), exp(scores[1] - larger.y), scores[1] > vec4f(UNSEEN)),
            select(vec4f(), exp(scores[2] - larger.z), scores[2] > vec4f(UNSEEN)),
            select(vec4f(), exp(scores[3] - larger.w), scores[3] > vec4f(UNSEEN)),
        );
        total = total * shrink + vec4f(1.0) * weights;
        store_weights(weights, lane);
        workgroupBarrier();
        sum_near = mat4x4f(sum_near[0] * shrink.x, sum_near[1] * shrink.y, sum_near[2] * shrink.z, sum_near[3] * shrink.w);
        sum_far = mat4x4f(sum_far[0] * shrink.x, sum_far[1] * shrink.y, sum_far[2] * shrink.z, sum_far[3] * shrink.w);
        for (var x = 0u; x < present; x++) {
            let at = min(vec4u(base + x) + vec4u(0u, SCORE_LANES, 2u * SCORE_LANES, 3u * SCORE_LANES), vec4u(params.keys - 1u)) * key_stride
                + key_head * HEAD_VEC4;
            let weights = weights_of(x, lane.y);
            sum_near = add_product(sum_near, mat4x4f(v[at.x + near], v[at.y + near], v[at.z + near], v[at.w + near]), weights);
            sum_far = add_product(sum_far, mat4x4f(v[at.x + far], v[at.y + far], v[at.z + far], v[at.w + far]), weights);
        }
    }

    if lane.x < SCORE_LANES {
        of_lanes[lane.y * SCORE_LANES + lane.x] = total;
    }
    workgroupBarrier();
    total = vec4f();
    for (var x = 0u; x < SCORE_LANES; x++) {
        total += of_lanes[lane.y * SCORE_LANES + x];
    }
    for (var i = 0u; i < 4u; i++) {
        if first_vector + lane.y + 8u * i < vectors {
            let start = own_starts[lane.y + 8u * i];
            if lane.x < HEAD_VEC4 {
                out[start + lane.x] = sum_near[i] / total[i];
            }
            if lane.x + LANES < HEAD_VEC4 {
                out[start + lane.x + LANES] = sum_far[i] / total[i];
            }
            if lane.x == 0u {
                lse[start / HEAD_VEC4] = largest[i] + log(total[i]);
            }
        }
    }
}
