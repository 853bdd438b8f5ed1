// uses: {head}, soft_cap, window
// attention: out = softmax(cap(scale q k^T)) v over the keys that a row sees, and the log-sum-exp of these scores.
// Algorithm: one invocation a (row, query head). It holds its query and the unnormalised output in registers, walks over its
// keys once, and rescales the output whenever a larger score appears (online softmax, Milakov & Gimelshein 2018; this is
// flash attention with a block of one row). Only keys in the row's range are visited, so there is no mask and no infinity.
// Traffic: reads q once and writes out and lse once; each invocation reads its keys and values once, and neighbouring
// invocations (rows of one head) read the same ones at about the same time, so they come from cache.
// Accumulates in f32, in the order of the keys; no barriers, no workgroup memory.

struct Params { rows: u32, keys: u32, heads: u32, group: u32, scale: f32, window: u32 }

override HEAD_VEC4: u32 = 16; // columns of a head / 4

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4f>;               // [rows, heads * HEAD_VEC4]
@group(0) @binding(2) var<storage, read> k: array<vec4f>;               // [keys, heads / group * HEAD_VEC4]
@group(0) @binding(3) var<storage, read> v: array<vec4f>;               // as k
@group(0) @binding(4) var<storage, read> position: array<u32>;          // [rows]
@group(0) @binding(5) var<storage, read> segment_start: array<u32>;     // [rows]
@group(0) @binding(6) var<storage, read_write> out: array<vec4f>;       // as q
@group(0) @binding(7) var<storage, read_write> lse: array<f32>;         // [rows, heads]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let id = (group.y * groups.x + group.x) * 64u + lane;
    let head = id / params.rows;
    if head >= params.heads {
        return;
    }
    let row = id % params.rows;
    let q_start = (row * params.heads + head) * HEAD_VEC4;
    let key_stride = params.heads / params.group * HEAD_VEC4;
    let key_head = head / params.group * HEAD_VEC4;

    var query: array<vec4f, MAX_HEAD_VEC4>;
    var sum: array<vec4f, MAX_HEAD_VEC4>; // of exp(score - largest) v
    for (var c = 0u; c < HEAD_VEC4; c++) {
        query[c] = q[q_start + c] * params.scale;
    }

    var largest = -1e30;
    var total = 0.0; // of exp(score - largest)
    let own = segment_start[row] + position[row];
    let first = first_seen(segment_start[row], own);
    let last = min(own, params.keys - 1u);
    for (var key = first; key <= last; key++) {
        let at = key * key_stride + key_head;
        var products = vec4f();
        for (var c = 0u; c < HEAD_VEC4; c++) {
            products += query[c] * k[at + c];
        }
        let score = capped(vec4f(products.x + products.y + products.z + products.w)).x;
        if score > largest {
            let shrink = exp(largest - score);
            for (var c = 0u; c < HEAD_VEC4; c++) {
                sum[c] *= shrink;
            }
            total *= shrink;
            largest = score;
        }
        let weight = exp(score - largest);
        total += weight;
        for (var c = 0u; c < HEAD_VEC4; c++) {
            sum[c] += weight * v[at + c];
        }
    }
    for (var c = 0u; c < HEAD_VEC4; c++) {
        out[q_start + c] = sum[c] / total;
    }
    lse[row * params.heads + head] = largest + log(total);
}
