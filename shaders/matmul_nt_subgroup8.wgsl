// matmul NT, out[i, j] = scale * sum over k of a[i, k] b[j, k] (+ addend) (+ out), for drivers with subgroups of exactly 8.
// Algorithm: one subgroup a tile of 16 x 32 outputs, in registers. A lane owns 4 of the 32 columns. Per 4 steps of k it loads 4 rows
// of b (one vec4 each), and the subgroup loads the 16 rows of a, lane = row, and spreads them by broadcast: 6 vec4 loads for
// 256 multiply-adds a lane. A load is what costs on a CPU driver. No workgroup memory, no barriers.
// SWAPPED exchanges a and b, for products with few columns (LoRA's x A^T): 8 or 16 columns are spread, lanes own 4 of 32 rows.
// Dispatch: x = tiles of rows, y = tiles of columns. Traffic: a is read n / 32 times and b m / 16 times; with the row tiles along x the
// 32 rows of b stay in the cache for all of them. Accumulates in f32 along k in order.
// Rows past the end repeat the last one and are not stored. k, n, starts and row lengths are multiples of 4.

override SWAPPED: bool = false;
override SPREAD_ROWS: u32 = 16u; // 8 or 16

fn load_a_row(row: u32, k4: u32) -> vec4f {
    return load_a4((params.a_start + min(row, params.m - 1u) * params.a_row) / 4u + k4);
}

fn load_b_row(row: u32, k4: u32) -> vec4f {
    return load_weight4(min(row, params.n - 1u) * (params.k / 4u) + k4);
}

fn load_spread(row: u32, k4: u32) -> vec4f {
    if SWAPPED {
        return load_b_row(row, k4);
    }
    return load_a_row(row, k4);
}

fn load_own(row: u32, k4: u32) -> vec4f {
    if SWAPPED {
        return load_a_row(row, k4);
    }
    return load_b_row(row, k4);
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let tile = select(group.xy, group.yx, SWAPPED);
    let spread = tile.x * SPREAD_ROWS;
    let own = tile.y * 32u + lane * 4u;
    var low: EightRows;
    var high: EightRows;
    for (var k4 = 0u; k4 < params.k / 4u; k4++) {
        let block = transpose(mat4x4f(load_own(own, k4), load_own(own + 1u, k4), load_own(own + 2u, k4), load_own(own + 3u, k4)));
        low = add_rows(low, load_spread(spread + lane, k4), block);
        if SPREAD_ROWS == 16u {
            high = add_rows(high, load_spread(spread + 8u + lane, k4), block);
        }
    }
    if SWAPPED {
        let end = min(spread + SPREAD_ROWS, params.n);
        for (var column = spread; column < end; column += 4u) {
            let block = transpose(mat4x4f(low[0], low[1], low[2], low[3]));
            store4(own, column, block[0]);
            store4(own + 1u, column, block[1]);
            store4(own + 2u, column, block[2]);
            store4(own + 3u, column, block[3]);
            low = EightRows(low[4], low[5], low[6], low[7], high[0], high[1], high[2], high[3]);
            high = EightRows(high[4], high[5], high[6], high[7], vec4f(), vec4f(), vec4f(), vec4f());
        }
    } else {
        let end = min(spread + SPREAD_ROWS, params.m);
        for (var row = spread; row < end; row++) {
            store4(row, own, low[0]);
            low = moved_down(low, high[0]);
            high = moved_down(high, vec4f());
        }
    }
}
