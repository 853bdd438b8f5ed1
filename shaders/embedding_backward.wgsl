// embedding_backward: d_weight[k] = the sum of d_y[t] over the tokens t whose id is that of row k, which is chosen[k], or k itself where all
// rows are meant. One workgroup a row of d_weight; each invocation has its own columns and walks through the ids from first to last.
// Traffic: each row reads all ids, and d_y where they are its own. Accumulates in f32 in d_weight, in the order of the tokens.

struct Params { rows: u32, columns: u32, tokens: u32, has_chosen: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> d_y: array<f32>;            // [tokens, columns]
@group(0) @binding(2) var<storage, read> ids: array<u32>;            // [tokens]
@group(0) @binding(3) var<storage, read> chosen: array<u32>;         // [rows], if has_chosen
@group(0) @binding(4) var<storage, read_write> d_weight: array<f32>; // [rows, columns]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * groups.x + group.x;
    if row >= params.rows {
        return;
    }
    var id = row;
    if params.has_chosen != 0u {
        id = chosen[row];
    }
    let start = row * params.columns;
    for (var c = lane; c < params.columns; c += 64u) {
        d_weight[start + c] = 0.0;
    }
    for (var t = 0u; t < params.tokens; t += 1u) {
        if ids[t] == id {
            for (var c = lane; c < params.columns; c += 64u) {
                d_weight[start + c] += d_y[t * params.columns + c];
            }
        }
    }
}
