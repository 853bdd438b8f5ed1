// cache_rows: cache[position[t]] = x[t]. One invocation an element. Traffic: reads x once, writes as much.

struct Params { rows: u32, columns: u32, positions: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [rows, columns]
@group(0) @binding(2) var<storage, read> position: array<u32>;  // [rows]
@group(0) @binding(3) var<storage, read_write> cache: array<f32>; // [positions, columns]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let index = (group.y * groups.x + group.x) * 64u + lane;
    let row = index / params.columns;
    if row >= params.rows || position[row] >= params.positions {
        return;
    }
    cache[position[row] * params.columns + index % params.columns] = x[index];
}
