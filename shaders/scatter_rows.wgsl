// uses: sorted_search
// scatter_rows: d_x[chosen[s]] = d_y[s], and zero in the rows that are not chosen. One workgroup a row of d_x; it looks its number up
// in the strictly increasing `chosen` by binary search, so every element is written once, by one invocation.
// Traffic: reads d_y once, writes d_x once. No accumulation.

struct Params { rows: u32, columns: u32, chosen: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> d_y: array<f32>;       // [chosen, columns]
@group(0) @binding(2) var<storage, read> chosen: array<u32>;    // [chosen], strictly increasing
@group(0) @binding(3) var<storage, read_write> d_x: array<f32>; // [rows, columns]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * groups.x + group.x;
    if row >= params.rows {
        return;
    }
    let index = index_among_chosen(row, params.chosen);
    for (var c = lane; c < params.columns; c += 64u) {
        var value = 0.0;
        if index < params.chosen {
            value = d_y[index * params.columns + c];
        }
        d_x[row * params.columns + c] = value;
    }
}
