// uses: {weights}
// embedding: y[t] = weight[ids[t]], for the ids whose row lies in this part of the weight; zeros for ids beyond the last part. One workgroup
// a token.
// Traffic: reads one packed row and writes one f32 row a token. No accumulation. The weight is read element by element, so any number of
// columns will do.

struct Params {
    rows: u32,      // tokens
    columns: u32,
    first_row: u32, // of this part
    part_rows: u32,
    is_last: u32,   // part
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;     // [rows]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [rows, columns]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * groups.x + group.x;
    if row >= params.rows {
        return;
    }
    let id = ids[row];
    if id < params.first_row {
        return; // another part's
    }
    if id - params.first_row >= params.part_rows {
        if params.is_last != 0u {
            for (var c = lane; c < params.columns; c += 64u) {
                y[row * params.columns + c] = 0.0;
            }
        }
        return;
    }
    let start = (id - params.first_row) * params.columns;
    for (var c = lane; c < params.columns; c += 64u) {
        y[row * params.columns + c] = load_weight(start + c);
    }
}
