// uses: matmul_operands, eight_rows
// matmul in registers for CPU drivers: out = scale * op(a) op(b) (+ addend) (+ out). Needs nothing beyond WebGPU's defaults.
// Algorithm: an invocation computes 8 x 8 outputs. Per 4 steps of k it loads 8 vec4 of each operand for 256 multiply-adds.
// Why: on a CPU driver workgroup memory is ordinary memory and a barrier ends the vectorised loop, so both cost more than they save.
// Dispatch: blocks of 8 x 8 in row order, 64 a workgroup. Traffic: a is read n / 8 times and b m / 8 times, from cache.
// Accumulates in f32 along k in order.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let blocks_n = (params.n + 7u) / 8u;
    let block = (group.y * groups.x + group.x) * 64u + lane;
    let i = begin(vec3u(block / blocks_n, 0u, group.z), 8u).row;
    let j = block % blocks_n * 8u;
    if i >= rows_end() {
        return;
    }
    var left: EightRows;
    var right: EightRows;
    for (var k = 0u; k < steps_end(); k += 4u) {
        let b_left = b_block(j, k);
        let b_right = b_block(j + 4u, k);
        for (var row = 0u; row < 8u; row++) {
            let x = a_steps(i + row, k);
            left[row] = add_products(left[row], x, b_left);
            right[row] = add_products(right[row], x, b_right);
        }
    }
    store_rows(i, min(i + 8u, rows_end()), j, left);
    store_rows(i, min(i + 8u, rows_end()), j + 4u, right);
}
