// matmul in registers for drivers with subgroups of exactly 8 (CPU drivers such as lavapipe): out = scale * op(a) op(b) (+ addend) (+ out).
// Algorithm: one subgroup a tile of 16 x 32 outputs (8 x 32 with SPREAD_ROWS = 8). A lane owns 4 of the 32 columns. Per 4 steps of k it
// loads its own columns of b, 4 vec4; the rows of a are loaded once by the subgroup, lane = row, and spread by broadcast: 6 vec4
// loads for 256 multiply-adds a lane.
// Why it is fast: on a CPU driver a load costs about as much as 20 multiply-adds, wherever it points, while a broadcast from a literal
// lane is a register shuffle. No workgroup memory, no barriers.
// SWAPPED exchanges the operands, for products with few columns (LoRA's x A^T, d_y^T u): columns are spread, a lane owns 4 of 32 rows.
// Dispatch: x = tiles of rows, y = tiles of columns. Traffic: a is read n / 32 times and b m / 16 times; row tiles follow each other, so
// the 32 columns of b stay in the cache for all of them. Accumulates in f32 along k in order.

override SWAPPED: bool = false;
override SPREAD_ROWS: u32 = 16u; // 8 or 16

alias EightRows = array<vec4f, 8>;

fn spread_steps(at: u32, k: u32) -> vec4f {
    if SWAPPED {
        return b_steps(at, k);
    }
    return a_steps(at, k);
}

fn own_block(at: u32, k: u32) -> mat4x4f {
    if SWAPPED {
        return a_block(at, k);
    }
    return b_block(at, k);
}

// Four steps of k for 8 rows: lane r holds row r of the spread operand, `own` the lane's columns of the other one.
fn add_rows(sums: EightRows, spread: vec4f, own: mat4x4f) -> EightRows {
    return EightRows(
        add_products(sums[0], subgroupBroadcast(spread, 0u), own),
        add_products(sums[1], subgroupBroadcast(spread, 1u), own),
        add_products(sums[2], subgroupBroadcast(spread, 2u), own),
        add_products(sums[3], subgroupBroadcast(spread, 3u), own),
        add_products(sums[4], subgroupBroadcast(spread, 4u), own),
        add_products(sums[5], subgroupBroadcast(spread, 5u), own),
        add_products(sums[6], subgroupBroadcast(spread, 6u), own),
        add_products(sums[7], subgroupBroadcast(spread, 7u), own),
    );
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let tile = select(group.xy, group.yx, SWAPPED);
    let first = tile.x * SPREAD_ROWS;
    let own = tile.y * 32u + lane * 4u;
    var low: EightRows;
    var high: EightRows;
    for (var k = 0u; k < params.k; k += 4u) {
        let block = own_block(own, k);
        low = add_rows(low, spread_steps(first + lane, k), block);
        if SPREAD_ROWS == 16u {
            high = add_rows(high, spread_steps(first + 8u + lane, k), block);
        }
    }
    // Store the first rows, then move the others down: that keeps all of them in registers and has few stores. An index that varies
    // would put them in memory; 16 unrolled stores take five times as long to compile.
    if SWAPPED {
        for (var column = first; column < min(first + SPREAD_ROWS, params.n); column += 4u) {
            let block = transpose(mat4x4f(low[0], low[1], low[2], low[3]));
            store4(own, column, block[0]);
            store4(own + 1u, column, block[1]);
            store4(own + 2u, column, block[2]);
            store4(own + 3u, column, block[3]);
            low = EightRows(low[4], low[5], low[6], low[7], high[0], high[1], high[2], high[3]);
            high = EightRows(high[4], high[5], high[6], high[7], vec4f(), vec4f(), vec4f(), vec4f());
        }
    } else {
        for (var row = first; row < min(first + SPREAD_ROWS, params.m); row++) {
            store4(row, own, low[0]);
            low = EightRows(low[1], low[2], low[3], low[4], low[5], low[6], low[7], high[0]);
            high = EightRows(high[1], high[2], high[3], high[4], high[5], high[6], high[7], vec4f());
        }
    }
}
