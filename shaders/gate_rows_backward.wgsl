// uses: sigmoid, row_sum
// gate_rows_backward: d_gate[t] = s (1 - s) (d_y[t] . x[t]) with s = sigmoid(gate[t]). One workgroup a row. Traffic: reads d_y and x once.
// Accumulates in f32, in a fixed order.

struct Params { rows: u32, columns: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> d_y: array<f32>;           // [rows, columns]
@group(0) @binding(2) var<storage, read> x: array<f32>;             // [rows, columns]
@group(0) @binding(3) var<storage, read> gate: array<f32>;          // [rows]
@group(0) @binding(4) var<storage, read_write> d_gate: array<f32>;  // [rows]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * groups.x + group.x;
    if row >= params.rows {
        return;
    }
    var sum = 0.0;
    for (var c = lane; c < params.columns; c += 64u) {
        sum += d_y[row * params.columns + c] * x[row * params.columns + c];
    }
    let total = row_sum(lane, sum);
    if lane == 0u {
        let share = sigmoid(vec4f(gate[row])).x;
        d_gate[row] = share * (1.0 - share) * total;
    }
}
