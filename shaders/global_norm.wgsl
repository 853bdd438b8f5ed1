// uses: row_sum
// global_norm, first of two passes: sums of squares of the gradients, one a workgroup.
// Each invocation adds up every (64 * workgroups)-th element, then the workgroup adds its 64 sums in a tree.
// Traffic: reads the gradients once. Accumulates in f32, in a fixed order.

struct Params { elements: u32, partials: u32, first: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradients: array<f32>;      // [elements]
@group(0) @binding(2) var<storage, read_write> partial: array<f32>;  // [partials of all bindings], one a workgroup, these from `first` on

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    var squares = 0.0;
    for (var i = group.x * 64u + lane; i < params.elements; i += params.partials * 64u) {
        squares += gradients[i] * gradients[i];
    }
    let total = row_sum(lane, squares);
    if lane == 0u {
        partial[params.first + group.x] = total;
    }
}
