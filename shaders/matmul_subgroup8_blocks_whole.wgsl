// uses: eight_rows, matmul_operands, spread_rows, {low_rank}, {table}
// matmul_subgroup8 for NT with block-quantised weights whose codes have 5 bits at the most: out = scale * a b^T (+ addend) (+ out).
// Algorithm: one subgroup a tile of 16 x 64 outputs (8 x 64 with SPREAD_ROWS = 8). A lane owns 8 of the 64 columns, and along k it goes by
// blocks of 32: it loads those of its columns whole, then turns codes into numbers 4 steps at a time. The rows of a are loaded once by the
// subgroup, lane = row, and spread by broadcast.
// Why it is fast: loads set the pace on a CPU driver; for 32 steps of k a lane loads 8 heads and 16 pairs of Q4_1 codes, and 32 pairs of a for
// 4,096 multiply-adds, half of what 4 columns a lane would load of a. 32 rows would load as little, but 4 steps are then 1,024 multiply-adds,
// some 20 KB of code, which no longer fit the CPU's cache of instructions; 8 steps at a time cost as much.
// Dispatch: x = tiles of rows, y = tiles of columns. Accumulates in f32 along k in order. k is a multiple of 32.

override SPREAD_ROWS: u32 = 16u; // 8 or 16

// One block of each of four rows of b.
struct FourBlocks {
    heads: array<Head, 4>,
    codes: array<Codes, 4>,
}

fn four_blocks(at: vec4u) -> FourBlocks {
    return FourBlocks(
        array<Head, 4>(load_head(at.x), load_head(at.y), load_head(at.z), load_head(at.w)),
        array<Codes, 4>(load_codes(at.x), load_codes(at.y), load_codes(at.z), load_codes(at.w)),
    );
}

// Elements 4 * four .. 4 * four + 4 of each, a column for each step of k.
fn steps_of(blocks: FourBlocks, four: u32) -> mat4x4f {
    return transpose(mat4x4f(
        values_of(blocks.heads[0], blocks.codes[0], four),
        values_of(blocks.heads[1], blocks.codes[1], four),
        values_of(blocks.heads[2], blocks.codes[2], four),
        values_of(blocks.heads[3], blocks.codes[3], four),
    ));
}

// Where rows j .. j + 4 of b begin, in blocks. Past the end of n the last row is read instead; its results are not stored.
fn rows_from(j: u32) -> vec4u {
    return b_first() / 32u + min(vec4u(j) + vec4u(0u, 1u, 2u, 3u), vec4u(params.n - 1u)) * (params.k / 32u);
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    prepare(lane);
    let begun = begin(group, SPREAD_ROWS);
    let first = begun.row;
    let own = group.y * 64u + lane * 8u;
    let near_rows = rows_from(own);
    let far_rows = rows_from(own + 4u);
    // Eight rows each, of the lane's first four columns and of its last.
    var near0: EightRows;
    var far0: EightRows;
    var near1: EightRows;
    var far1: EightRows;
    for (var block = 0u; block < begun.steps / 32u; block++) {
        let near_blocks = four_blocks(near_rows + block);
        let far_blocks = four_blocks(far_rows + block);
        for (var four = 0u; four < 8u; four++) {
            let k = 32u * block + 4u * four;
            let near = steps_of(near_blocks, four);
            let far = steps_of(far_blocks, four);
            let spread0 = a_steps(first + lane, k);
            near0 = add_rows(near0, spread0, near);
            far0 = add_rows(far0, spread0, far);
            if SPREAD_ROWS >= 16u {
                let spread1 = a_steps(first + 8u + lane, k);
                near1 = add_rows(near1, spread1, near);
                far1 = add_rows(far1, spread1, far);
            }
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
