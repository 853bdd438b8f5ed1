// Sum over the LANES invocations of a workgroup (a power of two), in a fixed order. All of them must call it together.

var<workgroup> lane_partial: array<vec4f, LANES>;

fn lane_sum(lane: u32, own: vec4f) -> vec4f {
    lane_partial[lane] = own;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            lane_partial[lane] += lane_partial[lane + half];
        }
        workgroupBarrier();
    }
    let total = lane_partial[0];
    workgroupBarrier(); // the next call may not write before everyone has read
    return total;
}
