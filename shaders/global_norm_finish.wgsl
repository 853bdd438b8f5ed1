// uses: row_sum
// global_norm, second of two passes: the root of the sum of the first pass's sums, by one workgroup.
// Traffic: reads the partial sums. Accumulates in f32, in a fixed order.

struct Params { elements: u32, partials: u32, first: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partial: array<f32>;    // [partials]
@group(0) @binding(2) var<storage, read_write> norm: array<f32>; // [1]

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    var squares = 0.0;
    for (var i = lane; i < params.partials; i += 64u) {
        squares += partial[i];
    }
    let total = row_sum(lane, squares);
    if lane == 0u {
        norm[0] = sqrt(total);
    }
}
