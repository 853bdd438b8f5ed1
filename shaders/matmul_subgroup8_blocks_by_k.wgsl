// uses: spread_rows, {low_rank}
// matmul_subgroup8 for NN with block-quantised weights, whose blocks lie along n: out = scale * a b (+ addend) (+ out).
// Algorithm: one subgroup a tile of 8 x 64 outputs, two blocks wide. A lane owns 8 of the 64 columns, the codes of which it loads at once;
// the rows of a are loaded once by the subgroup, lane = row, and spread by broadcast. So are the scales: per 4 steps of k the tile has 8,
// one a lane.
// Why it is fast: loads set the pace on a CPU driver; for 4 steps of k a lane loads 4 words of Q4_1 codes, one scale and 2 pairs of a
// for 256 multiply-adds, where f32 takes 12 pairs.
// Dispatch: x = tiles of rows, y = tiles of columns. Accumulates in f32 along k in order. n is a multiple of 32, k of 4.

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let first = group.x * 8u;
    let own = group.y * 64u + lane * 8u;
    let blocks = params.n / 32u; // in a row of b
    let b = params.b_start / 32u;
    // Past the end of n the last block is read instead; its results are not stored.
    let own_block = b + min(own / 32u, blocks - 1u);
    let eight = lane % 4u;
    // Lane 2 s + h loads the head of step s and of block h of the tile.
    let spread_block = b + min(group.y * 2u + lane % 2u, blocks - 1u);
    let is_second = lane >= 4u;
    var low: EightRows;
    var high: EightRows;
    for (var k = 0u; k < params.k; k += 4u) {
        let spread = a_steps(first + lane, k);
        let heads = load_head((k + lane / 2u) * blocks + spread_block);
        let head = array<Head, 4>(
            select(subgroupBroadcast(heads, 0u), subgroupBroadcast(heads, 1u), is_second),
            select(subgroupBroadcast(heads, 2u), subgroupBroadcast(heads, 3u), is_second),
            select(subgroupBroadcast(heads, 4u), subgroupBroadcast(heads, 5u), is_second),
            select(subgroupBroadcast(heads, 6u), subgroupBroadcast(heads, 7u), is_second),
        );
        let codes = array<Codes8, 4>(
            load_codes8(k * blocks + own_block, eight),
            load_codes8((k + 1u) * blocks + own_block, eight),
            load_codes8((k + 2u) * blocks + own_block, eight),
            load_codes8((k + 3u) * blocks + own_block, eight),
        );
        low = add_rows(low, spread, mat4x4f(
            first_values(head[0], codes[0], eight),
            first_values(head[1], codes[1], eight),
            first_values(head[2], codes[2], eight),
            first_values(head[3], codes[3], eight),
        ));
        high = add_rows(high, spread, mat4x4f(
            last_values(head[0], codes[0], eight),
            last_values(head[1], codes[1], eight),
            last_values(head[2], codes[2], eight),
            last_values(head[3], codes[3], eight),
        ));
    }
    for (var k = 0u; k < low_rank_steps(); k += 4u) {
        let spread = u_steps(first + lane, k);
        low = add_rows(low, spread, v_block(own, k));
        high = add_rows(high, spread, v_block(own + 4u, k));
    }
    store_rows(first, min(first + 8u, params.m), own, low);
    store_rows(first, min(first + 8u, params.m), own + 4u, high);
}
