// uses: {values}, {row_sum}
// expert_dots: w[t, j] = x[t] . y[places[t, j]]. One workgroup an entry. Traffic: reads y once, and a row of x once for each expert that it is
// sent to, from cache. Accumulates in f32, in a fixed order. Columns are counted in Values.

struct Params { rows: u32, columns: u32, experts: u32, other_rows: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Values>;     // [rows, columns]
@group(0) @binding(2) var<storage, read> y: array<Values>;     // [other_rows, columns]
@group(0) @binding(3) var<storage, read> places: array<u32>;   // [rows, experts]
@group(0) @binding(4) var<storage, read_write> w: array<f32>;  // [rows, experts]

override LANES: u32 = 64u; // invocations an entry

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let number = group.y * groups.x + group.x;
    let entry = min(number, params.rows * params.experts - 1u);
    let of_x = entry / params.experts * params.columns;
    let of_y = min(places[entry], params.other_rows - 1u) * params.columns;
    var sum = 0.0;
    for (var c = lane; c < params.columns; c += LANES) {
        sum += inner(x[of_x + c], y[of_y + c]);
    }
    let total = row_sum(lane, sum);
    if lane == 0u && number == entry {
        w[entry] = total;
    }
}
