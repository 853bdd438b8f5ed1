// uses: {values}
// to_experts: y[s] = x[rows[s] / K], times the entry's weight where WEIGHTED. One workgroup a row of y. Traffic: reads a row of x once for each
// expert that it is sent to, writes y. No accumulation. Columns are counted in Values.

struct Params { rows: u32, columns: u32, experts: u32, other_rows: u32 }

override WEIGHTED: bool = false;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Values>;     // [other_rows, columns]
@group(0) @binding(2) var<storage, read> rows: array<u32>;     // [rows]
@group(0) @binding(3) var<storage, read> weights: array<f32>;  // [other_rows, experts]
@group(0) @binding(4) var<storage, read_write> y: array<Values>; // [rows, columns]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * groups.x + group.x;
    if row >= params.rows {
        return;
    }
    let entry = min(rows[row], params.other_rows * params.experts - 1u);
    var weight = 1.0;
    if WEIGHTED {
        weight = weights[entry];
    }
    let start = entry / params.experts * params.columns;
    for (var c = lane; c < params.columns; c += 64u) {
        y[row * params.columns + c] = weight * x[start + c];
    }
}
