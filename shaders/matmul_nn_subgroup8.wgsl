// matmul NN, out[i, j] = scale * sum over k of a[i, k] b[k, j] (+ addend) (+ out), for drivers with subgroups of exactly 8.
// Algorithm: as matmul_nt_subgroup8: one subgroup a tile of 16 x 32 outputs in registers, a lane owns 4 adjacent columns.
// Per 4 steps of k: 4 vec4 loads of b (a row each, the lanes side by side) and 2 of a (lane = row, spread by broadcast) for
// 256 multiply-adds a lane.
// Dispatch: x = tiles of rows, y = tiles of columns. Traffic: a is read n / 32 times and b m / 16 times, from cache where tiles overlap.
// Accumulates in f32 along k in order. Rows and columns past the end repeat the last and are not stored. k, n, starts and row lengths
// are multiples of 4.

fn load_a_row(row: u32, k4: u32) -> vec4f {
    return load_a4((params.a_start + min(row, params.m - 1u) * params.a_row) / 4u + k4);
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let first_row = group.x * 16u;
    let column = group.y * 32u + lane * 4u;
    let n4 = params.n / 4u;
    let b_start = min(column / 4u, n4 - 1u);
    var low: EightRows;
    var high: EightRows;
    for (var k4 = 0u; k4 < params.k / 4u; k4++) {
        let at = b_start + 4u * k4 * n4;
        let b = mat4x4f(load_weight4(at), load_weight4(at + n4), load_weight4(at + 2u * n4), load_weight4(at + 3u * n4));
        low = add_rows(low, load_a_row(first_row + lane, k4), b);
        high = add_rows(high, load_a_row(first_row + 8u + lane, k4), b);
    }
    let end = min(first_row + 16u, params.m);
    for (var row = first_row; row < end; row++) {
        store4(row, column, low[0]);
        low = moved_down(low, high[0]);
        high = moved_down(high, vec4f());
    }
}
