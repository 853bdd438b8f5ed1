// uses: sorted_search
// replace_columns: out[t, v] = z[t, k] where v is chosen[k], and x[t, v] where it is none of them. One workgroup for 256 columns of a row.
// Traffic: reads x and z, writes out. No accumulation.

struct Params { rows: u32, columns: u32, x_columns: u32, z_columns: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [rows, x_columns]
@group(0) @binding(2) var<storage, read> z: array<f32>;         // [rows, z_columns]
@group(0) @binding(3) var<storage, read> chosen: array<u32>;    // [z_columns], strictly increasing
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // [rows, columns]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let blocks = (params.columns + 255u) / 256u;
    let number = group.y * groups.x + group.x;
    let row = number / blocks;
    if row >= params.rows {
        return;
    }
    let first = (number % blocks) * 256u;
    for (var c = first + lane; c < min(first + 256u, params.columns); c += 64u) {
        let k = index_among_chosen(c, params.z_columns);
        var value = 0.0;
        if k < params.z_columns {
            value = z[row * params.z_columns + k];
        } else if c < params.x_columns {
            value = x[row * params.x_columns + c];
        }
        out[row * params.columns + c] = value;
    }
}
