// add_expert_bias: out = x + the bias of the expert that the row was sent to. One workgroup a row.
// Traffic: reads x, writes out; biases and offsets come from cache. No accumulation.

struct Params { rows: u32, columns: u32, experts: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [rows, columns]
@group(0) @binding(2) var<storage, read> bias: array<f32>;      // [experts, columns]
@group(0) @binding(3) var<storage, read> offsets: array<u32>;   // [experts + 1], never falling
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // [rows, columns]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * groups.x + group.x;
    if row >= params.rows {
        return;
    }
    // The last expert whose rows begin at this one or before it.
    var low = 0u;
    var high = params.experts - 1u;
    while low < high {
        let middle = (low + high + 1u) / 2u;
        if offsets[middle] <= row {
            low = middle;
        } else {
            high = middle - 1u;
        }
    }
    for (var c = lane; c < params.columns; c += 64u) {
        out[row * params.columns + c] = x[row * params.columns + c] + bias[low * params.columns + c];
    }
}
