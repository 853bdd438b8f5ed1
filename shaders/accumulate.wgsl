// accumulate: total += x, four elements an invocation. Traffic: reads total and x once, writes total once.

struct Params { count: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> total: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first = (group.y * groups.x + group.x) * 256u + lane;
    for (var step = 0u; step < 4u; step++) {
        let index = first + step * 64u;
        if index < params.count {
            total[index] += x[index];
        }
    }
}
