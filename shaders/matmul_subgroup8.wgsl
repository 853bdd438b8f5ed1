// uses: eight_rows, matmul_operands, spread_rows, {low_rank}
// matmul in registers for drivers with subgroups of exactly 8 (CPU drivers such as lavapipe): out = scale * op(a) op(b) (+ addend) (+ out),
// with a low-rank term (common/low_rank) where the operands are not swapped.
// Algorithm: one subgroup a tile of 32 x 32 outputs (SPREAD_ROWS x 32, where there are fewer rows). A lane owns 4 of the 32 columns. Per 4 steps
// of k it loads its own columns of b, 4 vec4; the rows of a are loaded once by the subgroup, lane = row, and spread by broadcast: 8 vec4
// loads for 512 multiply-adds a lane, where 16 rows take 6 for 256.
// Why it is fast: on a CPU driver a load costs about as much as 20 multiply-adds, wherever it points, while a broadcast from a literal
// lane is a register shuffle. No workgroup memory, no barriers. The spread operand is loaded first: the driver then keeps more in registers.
// SWAPPED exchanges the operands, for products with few columns (LoRA's x A^T, d_y^T u): columns are spread, 8 or 16 of them, a lane owns 4
// of 32 rows.
// Dispatch: x = tiles of rows, y = tiles of columns. Traffic: a is read n / 32 times and b m / SPREAD_ROWS times; row tiles follow each
// other, so the 32 columns of b stay in the cache for all of them. Accumulates in f32 along k in order.

override SWAPPED: bool = false;
override SPREAD_ROWS: u32 = 16u; // 8, 16 or 32

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

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let begun = begin(group, select(SPREAD_ROWS, 32u, SWAPPED));
    let first = select(begun.row, group.y * SPREAD_ROWS, SWAPPED);
    let own = select(group.y * 32u, begun.row, SWAPPED) + lane * 4u;
    // Eight rows each.
    var rows0: EightRows;
    var rows1: EightRows;
    var rows2: EightRows;
    var rows3: EightRows;
    for (var k = 0u; k < begun.steps; k += 4u) {
        let spread0 = spread_steps(first + lane, k);
        var spread1: vec4f;
        var spread2: vec4f;
        var spread3: vec4f;
        if SPREAD_ROWS >= 16u {
            spread1 = spread_steps(first + 8u + lane, k);
        }
        if SPREAD_ROWS >= 32u {
            spread2 = spread_steps(first + 16u + lane, k);
            spread3 = spread_steps(first + 24u + lane, k);
        }
        let block = own_block(own, k);
        rows0 = add_rows(rows0, spread0, block);
        if SPREAD_ROWS >= 16u {
            rows1 = add_rows(rows1, spread1, block);
        }
        if SPREAD_ROWS >= 32u {
            rows2 = add_rows(rows2, spread2, block);
            rows3 = add_rows(rows3, spread3, block);
        }
    }
    if SWAPPED {
        store_columns(own, first, min(first + 8u, params.n), rows0);
        if SPREAD_ROWS >= 16u {
            store_columns(own, first + 8u, min(first + 16u, params.n), rows1);
        }
    } else {
        for (var k = 0u; k < low_rank_steps(); k += 4u) {
            let block = v_block(own, k);
            rows0 = add_rows(rows0, u_steps(first + lane, k), block);
            if SPREAD_ROWS >= 16u {
                rows1 = add_rows(rows1, u_steps(first + 8u + lane, k), block);
            }
            if SPREAD_ROWS >= 32u {
                rows2 = add_rows(rows2, u_steps(first + 16u + lane, k), block);
                rows3 = add_rows(rows3, u_steps(first + 24u + lane, k), block);
            }
        }
        store_rows(first, min(first + 8u, rows_end()), own, rows0);
        if SPREAD_ROWS >= 16u {
            store_rows(first + 8u, min(first + 16u, rows_end()), own, rows1);
        }
        if SPREAD_ROWS >= 32u {
            store_rows(first + 16u, min(first + 24u, rows_end()), own, rows2);
            store_rows(first + 24u, min(first + 32u, rows_end()), own, rows3);
        }
    }
}
