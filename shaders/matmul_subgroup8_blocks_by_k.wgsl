// uses: eight_rows, matmul_operands, spread_rows, spread_codes, {low_rank}, {table}
// matmul_subgroup8 for NN with block-quantised weights, whose blocks lie along n: out = scale * a b (+ addend) (+ out).
// Algorithm: one subgroup a tile of 16 x 64 outputs (8 x 64 with SPREAD_ROWS = 8), two blocks wide. A lane owns 8 of the 64 columns. Per 4
// steps of k the tile has 8 blocks, one a lane, which loads it whole; the other lanes have the head by broadcast and their own codes by
// shuffle. The rows of a are loaded once by the subgroup too, lane = row, and spread by broadcast.
// Why it is fast: loads set the pace on a CPU driver; for 4 steps of k a lane loads one block, of Q4_1 a head and 2 pairs of codes, and 4 pairs
// of a for 512 multiply-adds, where f32 takes 24 pairs. What codes cost beyond that, bits into numbers, is paid once for all rows of the tile.
// The rows of a are loaded first, since the driver gives registers in that order: where they follow the codes, it takes longer.
// Dispatch: x = tiles of rows, y = tiles of columns. Accumulates in f32 along k in order. n is a multiple of 32, k of 4.

override SPREAD_ROWS: u32 = 16u; // 8 or 16

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    prepare(lane);
    let begun = begin(group, SPREAD_ROWS);
    let first = begun.row;
    let own = group.y * 64u + lane * 8u;
    let blocks = params.n / 32u; // in a row of b
    let b = b_first() / 32u;
    let eight = lane % 4u;
    let half = lane / 4u;
    // Lane 2 s + h loads block h of the tile at step s. Past the end of n the last block is read instead; its results are not stored.
    let spread_block = b + min(group.y * 2u + lane % 2u, blocks - 1u);
    let is_second = half == 1u;
    // Eight rows each, of the lane's first four columns and of its last.
    var near0: EightRows;
    var far0: EightRows;
    var near1: EightRows;
    var far1: EightRows;
    for (var k = 0u; k < begun.steps; k += 4u) {
        let spread0 = a_steps(first + lane, k);
        var spread1: vec4f;
        if SPREAD_ROWS >= 16u {
            spread1 = a_steps(first + 8u + lane, k);
        }
        let block = (k + lane / 2u) * blocks + spread_block;
        let heads = load_head(block);
        let loaded = load_codes(block);
        let head = array<Head, 4>(
            select(subgroupBroadcast(heads, 0u), subgroupBroadcast(heads, 1u), is_second),
            select(subgroupBroadcast(heads, 2u), subgroupBroadcast(heads, 3u), is_second),
            select(subgroupBroadcast(heads, 4u), subgroupBroadcast(heads, 5u), is_second),
            select(subgroupBroadcast(heads, 6u), subgroupBroadcast(heads, 7u), is_second),
        );
        let codes = array<Codes8, 4>(
            spread_codes8(loaded, half, eight),
            spread_codes8(loaded, 2u + half, eight),
            spread_codes8(loaded, 4u + half, eight),
            spread_codes8(loaded, 6u + half, eight),
        );
        let near = mat4x4f(
            first_values(head[0], codes[0], eight),
            first_values(head[1], codes[1], eight),
            first_values(head[2], codes[2], eight),
            first_values(head[3], codes[3], eight),
        );
        near0 = add_rows(near0, spread0, near);
        if SPREAD_ROWS >= 16u {
            near1 = add_rows(near1, spread1, near);
        }
        let far = mat4x4f(
            last_values(head[0], codes[0], eight),
            last_values(head[1], codes[1], eight),
            last_values(head[2], codes[2], eight),
            last_values(head[3], codes[3], eight),
        );
        far0 = add_rows(far0, spread0, far);
        if SPREAD_ROWS >= 16u {
            far1 = add_rows(far1, spread1, far);
        }
    }
    for (var k = 0u; k < low_rank_steps(); k += 4u) {
        let near = v_block(own, k);
        let far = v_block(own + 4u, k);
        let spread0 = u_steps(first + lane, k);
        near0 = add_rows(near0, spread0, near);
        far0 = add_rows(far0, spread0, far);
        if SPREAD_ROWS >= 16u {
            let spread1 = u_steps(first + 8u + lane, k);
            near1 = add_rows(near1, spread1, near);
            far1 = add_rows(far1, spread1, far);
        }
    }
    store_rows(first, min(first + 8u, rows_end()), own, near0);
    store_rows(first, min(first + 8u, rows_end()), own + 4u, far0);
    if SPREAD_ROWS >= 16u {
        store_rows(first + 8u, min(first + 16u, rows_end()), own, near1);
        store_rows(first + 8u, min(first + 16u, rows_end()), own + 4u, far1);
    }
}
