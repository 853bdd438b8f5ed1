// uses: subgroup8_blocks, soft_cap, window
// attention for drivers with subgroups of exactly 8 (CPU drivers such as lavapipe): the algorithm of attention.wgsl on blocks of 8
// query vectors and 8 keys. One workgroup is one subgroup and owns 8 query vectors, a query vector being one (row, query head) of
// those that share a key/value head. It walks over the keys that any of them sees, 8 at a time from where each segment begins (so
// that a row's sums are grouped, and rounded, the same whatever else is packed beside its segment):
//   scores   lane = query vector: each lane loads 8 columns of its query and of one key; the keys' are spread
//   softmax  lane = query vector: largest score, weights and their sum are the lane's own
//   output   lane = 8 columns: each lane loads its columns of one value; the weights of the query vectors are spread
// Why it is fast there: a load is made lane by lane, whether lanes share its address or not, and costs many times what a spread from a
// literal lane does; a block needs 2 loads for 512 multiply-adds where attention.wgsl needs 64.
// Traffic: reads q once and writes out and lse once; k and v are read once for every 8 query vectors.
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

// Where query vector `vector` of key head `key_head` begins in q and out.
fn start_of(vector: u32, key_head: u32) -> u32 {
    return (vector / params.group * params.heads + key_head * params.group + vector % params.group) * HEAD_VEC4;
}

fn values_at(at: vec4u) -> FourEights {
    return four_eights(eight_of(v[at.x / 2u]), eight_of(v[at.y / 2u]), eight_of(v[at.z / 2u]), eight_of(v[at.w / 2u]));
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
    let own = segment_start[row] + position[row];
    let first = first_seen(segment_start[row], own);
    let last = min(own, params.keys - 1u);
    // Rows are in order, so the first one of the block sees the first key, and the last one the last.
    let first_row = first_vector / params.group;
    let last_row = min(first_vector + 7u, vectors - 1u) / params.group;
    let first_segment = segment_start[first_row];
    let skipped = first_seen(first_segment, first_segment + position[first_row]) - first_segment; // keys before the first one's window
    let begin = first_segment + skipped / 8u * 8u;
    let last_segment = segment_start[last_row];
    let end = min(last_segment + position[last_row], params.keys - 1u);

    var largest = UNSEEN;
    var total = 0.0; // of exp(score - largest)
    // Of exp(score - largest) v: the first four of the lane's columns and the last.
    var near: array<EightRows, PAIRS>;
    var far: array<EightRows, PAIRS>;
    var after = begin; // first key after the block of keys
    for (var base = begin; base <= end; base = after) {
        after = base + 8u;
        if base < last_segment {
            var row = first_row;
            while segment_start[row] <= base {
                row++;
            }
            after = min(after, segment_start[row]);
        }
        let k_start = min(base + lane, params.keys - 1u) * key_stride + key_start;
        var low = vec4f();  // keys base .. base + 4
        var high = vec4f(); // keys base + 4 .. base + 8
        for (var c = 0u; c < HEAD_VEC4; c += 2u) {
            let query = eight_of(q[(q_start + c) / 2u]);
            let key = eight_of(k[(k_start + c) / 2u]);
            low = add_low(low, query.near, key.near);
            low = add_low(low, query.far, key.far);
            high = add_high(high, query.near, key.near);
            high = add_high(high, query.far, key.far);
        }
        let keys_low = base + vec4u(0u, 1u, 2u, 3u);
        let keys_high = keys_low + 4u;
        let until = min(last + 1u, after);
        let sees_low = (keys_low >= vec4u(first)) & (keys_low < vec4u(until));
        let sees_high = (keys_high >= vec4u(first)) & (keys_high < vec4u(until));
        low = select(vec4f(UNSEEN), capped(params.scale * low), sees_low);
        high = select(vec4f(UNSEEN), capped(params.scale * high), sees_high);

        let of_block = max(low, high);
        let larger = max(largest, max(max(of_block.x, of_block.y), max(of_block.z, of_block.w)));
        let shrink = exp(largest - larger);
        largest = larger;
        // Before a lane sees its first key, UNSEEN - larger is 0: hence the second select.
        low = select(vec4f(), exp(low - larger), sees_low);
        high = select(vec4f(), exp(high - larger), sees_high);
        total = total * shrink + dot(low, vec4f(1.0)) + dot(high, vec4f(1.0));

        let starts_low = min(keys_low, vec4u(params.keys - 1u)) * key_stride + key_start;
        let starts_high = min(keys_high, vec4u(params.keys - 1u)) * key_stride + key_start;
        for (var pair = 0u; pair < PAIRS; pair++) {
            if pair * 16u < HEAD_VEC4 {
                let values_low = values_at(starts_low + column_of(pair, lane));
                let values_high = values_at(starts_high + column_of(pair, lane));
                let near_low = add_rows(scaled(near[pair], shrink), low, values_low.near);
                let far_low = add_rows(scaled(far[pair], shrink), low, values_low.far);
                near[pair] = add_rows(near_low, high, values_high.near);
                far[pair] = add_rows(far_low, high, values_high.far);
            }
        }
    }

    for (var pair = 0u; pair < PAIRS; pair++) {
        if pair * 16u < HEAD_VEC4 {
            let c = pair * 16u + 2u * lane;
            var outputs_near = scaled(near[pair], 1.0 / total);
            var outputs_far = scaled(far[pair], 1.0 / total);
            for (var i = first_vector; i < min(first_vector + 8u, vectors); i++) {
                if c < HEAD_VEC4 {
                    let at = start_of(i, key_head) + c;
                    out[at] = outputs_near[0];
                    out[at + 1u] = outputs_far[0];
                }
                outputs_near = next(outputs_near);
                outputs_far = next(outputs_far);
            }
        }
    }
    if first_vector + lane < vectors {
        lse[q_start / HEAD_VEC4] = largest + log(total);
    }
}
