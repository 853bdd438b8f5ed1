// uses: matmul_operands
// matmul for GPUs where out is narrow and k is long (LoRA's x A^T and d_y B, a few rows of a): out = scale * op(a) op(b) (+ addend) (+ out).
// Algorithm: a workgroup computes 4 x 8 outputs. Its lanes lie along k, 4 steps each: so there are enough workgroups to fill a GPU where
// tiles would be few, and neighbours read neighbouring vec4s of a row. Either operand is loaded by vec4s, in blocks of 4 x 4,
// whichever way it lies. The lanes' partial sums are added at the end.
// Dispatch: x = groups of 4 rows, y = groups of 8 columns. Traffic: a is read n / 8 times, b (small) m / 4 times.
// Accumulates in f32, in a fixed order.

const LANES = 64u;

var<workgroup> partial: array<vec4f, 512>; // [row and half of the output][lane]

// sums + a block, for four rows: a[row][step of k], block[step of k][column].
fn add_block(sums: mat4x4f, a: mat4x4f, block: mat4x4f) -> mat4x4f {
    return mat4x4f(
        add_products(sums[0], a[0], block),
        add_products(sums[1], a[1], block),
        add_products(sums[2], a[2], block),
        add_products(sums[3], a[3], block),
    );
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let begun = begin(group, 4u);
    let i = begun.row;
    let j = group.y * 8u;
    var left: mat4x4f;  // a column for each row of out
    var right: mat4x4f;
    for (var k = lane * 4u; k < begun.steps; k += LANES * 4u) {
        let a = transpose(a_block(i, k)); // a column for each row
        let b_left = b_block(j, k);
        let b_right = b_block(j + 4u, k);
        left = add_block(left, a, b_left);
        right = add_block(right, a, b_right);
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
