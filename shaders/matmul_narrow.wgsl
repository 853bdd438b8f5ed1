// uses: matmul_operands
// matmul for GPUs where out is narrow and k is long (LoRA's x A^T and d_y B, a few rows of a): out = scale * op(a) op(b) (+ addend) (+ out).
// Algorithm: a workgroup computes 4 x 8 outputs. Its lanes lie along k, 4 steps each: so there are enough workgroups to fill a GPU where
// tiles would be few, and neighbours read neighbouring vec4s of a row. The lanes' partial sums are added at the end.
// Dispatch: x = groups of 4 rows, y = groups of 8 columns. Traffic: a is read n / 8 times, b (small) m / 4 times.
// Accumulates in f32, in a fixed order.

const LANES = 64u;

var<workgroup> partial: array<vec4f, 512>; // [row and half of the output][lane]

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = group.x * 4u;
    let j = group.y * 8u;
    var left: mat4x4f;  // a column for each row of out
    var right: mat4x4f;
    for (var k = lane * 4u; k < params.k; k += LANES * 4u) {
        let a = mat4x4f(a_steps(i, k), a_steps(i + 1u, k), a_steps(i + 2u, k), a_steps(i + 3u, k));
        let b_left = mat4x4f(b_steps(j, k), b_steps(j + 1u, k), b_steps(j + 2u, k), b_steps(j + 3u, k));
        let b_right = mat4x4f(b_steps(j + 4u, k), b_steps(j + 5u, k), b_steps(j + 6u, k), b_steps(j + 7u, k));
        left += mat4x4f(a[0] * b_left, a[1] * b_left, a[2] * b_left, a[3] * b_left);
        right += mat4x4f(a[0] * b_right, a[1] * b_right, a[2] * b_right, a[3] * b_right);
    }
    for (var row = 0u; row < 4u; row++) {
        partial[row * LANES + lane] = left[row];
        partial[(row + 4u) * LANES + lane] = right[row];
    }
    workgroupBarrier();
    // Each lane adds 8 of the 64 partial sums of one vec4 of the output, then 8 lanes add the 8 that are left of theirs.
    var sum: vec4f;
    for (var at = 0u; at < 8u; at++) {
        sum += partial[lane * 8u + at];
    }
    workgroupBarrier();
    partial[lane] = sum;
    workgroupBarrier();
    if lane < 8u {
        sum = vec4f();
        for (var at = 0u; at < 8u; at++) {
            sum += partial[lane * 8u + at];
        }
        store4(i + lane % 4u, j + lane / 4u * 4u, sum);
    }
}
