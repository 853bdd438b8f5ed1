// uses: sigmoid
// gate_rows: y[t] = sigmoid(gate[t]) x[t]. One workgroup a row. Traffic: reads x, writes y. No accumulation.

struct Params { rows: u32, columns: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;        // [rows, columns]
@group(0) @binding(2) var<storage, read> gate: array<f32>;     // [rows]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;  // [rows, columns]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * groups.x + group.x;
    if row >= params.rows {
        return;
    }
    let share = sigmoid(vec4f(gate[row])).x;
    for (var c = lane; c < params.columns; c += 64u) {
        y[row * params.columns + c] = share * x[row * params.columns + c];
    }
}
