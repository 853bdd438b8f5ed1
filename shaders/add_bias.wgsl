// add_bias: out = x + bias, the same for every row. One workgroup a row, so that no index needs a division.
// Traffic: reads x, writes out; bias comes from cache. No accumulation.

struct Params { rows: u32, columns: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [rows, columns]
@group(0) @binding(2) var<storage, read> bias: array<f32>;      // [columns]
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [rows, columns]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * groups.x + group.x;
    if row >= params.rows {
        return;
    }
    for (var c = lane; c < params.columns; c += 64u) {
        out[row * params.columns + c] = x[row * params.columns + c] + bias[c];
    }
}
