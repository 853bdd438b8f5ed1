// column_dots: out[c] = sum_t a[t, c] b[t, c]. One invocation a column, so that neighbours read neighbouring values.
// Traffic: reads a and b once, writes a row. Accumulates in f32 from the first row to the last, so results repeat bitwise.

struct Params { rows: u32, columns: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;         // [rows, columns]
@group(0) @binding(2) var<storage, read> b: array<f32>;         // [rows, columns]
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [columns]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let c = (group.y * groups.x + group.x) * 64u + lane;
    if c >= params.columns {
        return;
    }
    var sum = 0.0;
    for (var t = 0u; t < params.rows; t++) {
        sum += a[t * params.columns + c] * b[t * params.columns + c];
    }
    out[c] = sum;
}
