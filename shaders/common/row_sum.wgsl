// Sum over the 64 invocations of a workgroup, for kernels in which one workgroup handles one row.
// All invocations must call it together (it has barriers). The order of the additions is fixed, so results repeat bitwise.

var<workgroup> row_sum_partial: array<f32, 64>;

fn row_sum(lane: u32, own: f32) -> f32 {
    row_sum_partial[lane] = own;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if lane < half {
            row_sum_partial[lane] += row_sum_partial[lane + half];
        }
        workgroupBarrier();
    }
    let total = row_sum_partial[0];
    workgroupBarrier(); // the next call may not write before everyone has read
    return total;
}
