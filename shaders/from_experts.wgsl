// uses: {values}
// from_experts: x[t] = sum over j of y[places[t, j]], each times its weight where WEIGHTED. One workgroup a row of x. Traffic: reads y once,
// writes x. Accumulates in f32, in the order of j. Columns are counted in Values.

struct Params { rows: u32, columns: u32, experts: u32, other_rows: u32 }

override WEIGHTED: bool = false;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> y: array<Values>;     // [other_rows, columns]
@group(0) @binding(2) var<storage, read> places: array<u32>;   // [rows, experts]
@group(0) @binding(3) var<storage, read> weights: array<f32>;  // [rows, experts]
@group(0) @binding(4) var<storage, read_write> x: array<Values>; // [rows, columns]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * groups.x + group.x;
    if row >= params.rows {
        return;
    }
    let first = row * params.experts;
    for (var c = lane; c < params.columns; c += 64u) {
        var sum: Values;
        for (var j = 0u; j < params.experts; j++) {
            var weight = 1.0;
            if WEIGHTED {
                weight = weights[first + j];
            }
            sum += weight * y[min(places[first + j], params.other_rows - 1u) * params.columns + c];
        }
        x[row * params.columns + c] = sum;
    }
}
