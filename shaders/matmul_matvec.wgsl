// uses: matmul_operands, {lane_sum}
// matmul NT for a single row of a (generation): out[j] = scale * sum over k of a[k] b[j, k] (+ addend) (+ out).
// Algorithm: a workgroup takes 8 columns, that is 8 rows of b. Its lanes lie along k, so that each load of the workgroup is one piece of
// a row, and every element of b is read once. The lanes' partial sums are added at the end.
// Dispatch: x = 1, y = groups of 8 columns. Traffic: b once (it decides), a from cache. Accumulates in f32, in a fixed order.
// Columns past the end repeat the last and are not stored. k, n, starts and row lengths are multiples of 4.

override LANES: u32 = 64u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let j = group.y * 8u;
    var low: vec4f;
    var high: vec4f;
    for (var k = lane * 4u; k < params.k; k += LANES * 4u) {
        let x = a_steps(0u, k);
        low += x * mat4x4f(b_steps(j, k), b_steps(j + 1u, k), b_steps(j + 2u, k), b_steps(j + 3u, k));
        high += x * mat4x4f(b_steps(j + 4u, k), b_steps(j + 5u, k), b_steps(j + 6u, k), b_steps(j + 7u, k));
    }
    low = lane_sum(lane, low);
    high = lane_sum(lane, high);
    if lane == 0u {
        store4(0u, j, low);
        store4(0u, j + 4u, high);
    }
}
