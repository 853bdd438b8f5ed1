// uses: {weights}, row_sum
// dora_norm: out[o] = 1 / || W[o, :] + scale (B A)[o, :] ||, for the rows of one part of the weight. One workgroup a row.
// Traffic: reads the packed row once, A (from cache, after the first rows) and a row of B, writes one value. Accumulates in f32, in a
// fixed order. The weight is read element by element, so any number of columns will do.

struct Params {
    rows: u32,      // of this part
    columns: u32,
    rank: u32,
    first_row: u32, // of this part
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;         // [rank, columns]
@group(0) @binding(3) var<storage, read> b: array<f32>;         // [all rows, rank]
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // [all rows]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * groups.x + group.x;
    let in_part = min(row, params.rows - 1u);
    let first_b = (params.first_row + in_part) * params.rank;
    var squares = 0.0;
    for (var c = lane; c < params.columns; c += 64u) {
        var update = 0.0;
        for (var k = 0u; k < params.rank; k++) {
            update += b[first_b + k] * a[k * params.columns + c];
        }
        let value = load_weight(in_part * params.columns + c) + params.scale * update;
        squares += value * value;
    }
    let total = row_sum(lane, squares);
    if row < params.rows && lane == 0u {
        out[params.first_row + row] = select(0.0, inverseSqrt(total), total > 0.0);
    }
}
