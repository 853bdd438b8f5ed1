// column_sums: out[c] = sum_t x[t, c]. A workgroup is for 8 columns; 8 invocations share the rows of each, so that a long column does not
// wait for one load after the other, and neighbours read neighbouring values.
// Traffic: reads x once, writes a row. Accumulates in f32 in a fixed order, so results repeat bitwise.

struct Params { rows: u32, columns: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [rows, columns]
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [columns]

var<workgroup> sums: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let c = (group.y * groups.x + group.x) * 8u + lane % 8u;
    var own = 0.0;
    if c < params.columns {
        for (var t = lane / 8u; t < params.rows; t += 8u) {
            own += x[t * params.columns + c];
        }
    }
    sums[lane] = own;
    workgroupBarrier();
    if lane < 8u && c < params.columns {
        var sum = 0.0;
        for (var i = lane; i < 64u; i += 8u) {
            sum += sums[i];
        }
        out[c] = sum;
    }
}
