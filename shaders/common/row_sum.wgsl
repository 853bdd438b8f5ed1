// Sum over the 64 invocations of a workgroup, for kernels in which one workgroup handles one row.
// All invocations must call it together: it has two barriers, as few as a sum in two levels of 8 can have, since they are what it
// costs on a CPU driver. The order of the additions is fixed, so results repeat bitwise.

var<workgroup> row_sum_lanes: array<f32, 64>;
var<workgroup> row_sum_eighths: array<f32, 8>;

fn row_sum(lane: u32, own: f32) -> f32 {
    row_sum_lanes[lane] = own;
    workgroupBarrier();
    if lane < 8u {
        var sum = 0.0;
        for (var i = lane; i < 64u; i += 8u) {
            sum += row_sum_lanes[i];
        }
        row_sum_eighths[lane] = sum;
    }
    workgroupBarrier();
    // No third barrier: the next call writes the lanes' array, which was last read before the second barrier, and the eighths only
    // after its own first.
    var total = 0.0;
    for (var i = 0u; i < 8u; i++) {
        total += row_sum_eighths[i];
    }
    return total;
}
