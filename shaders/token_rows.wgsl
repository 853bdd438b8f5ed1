// uses: sorted_search
// token_rows: z[t] = rows[k] where ids[t] is chosen[k], and y[t] where it is none of them. One workgroup a token.
// Traffic: reads a row of y or of rows and writes one a token. No accumulation.

struct Params { tokens: u32, columns: u32, rows: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> y: array<f32>;       // [tokens, columns]
@group(0) @binding(2) var<storage, read> ids: array<u32>;     // [tokens]
@group(0) @binding(3) var<storage, read> rows: array<f32>;    // [rows, columns]
@group(0) @binding(4) var<storage, read> chosen: array<u32>;  // [rows], strictly increasing
@group(0) @binding(5) var<storage, read_write> z: array<f32>; // [tokens, columns]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let t = group.y * groups.x + group.x;
    if t >= params.tokens {
        return;
    }
    let row = index_among_chosen(ids[t], params.rows);
    for (var c = lane; c < params.columns; c += 64u) {
        let at = t * params.columns + c;
        if row < params.rows {
            z[at] = rows[row * params.columns + c];
        } else {
            z[at] = y[at];
        }
    }
}
