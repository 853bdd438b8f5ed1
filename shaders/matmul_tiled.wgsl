// uses: {tile}
// matmul for GPUs: out = scale * op(a) op(b) (+ addend) (+ out).
// Algorithm: a workgroup computes a tile of out, 64 x 64 by default. It copies a tile of a and one of b, K_TILE = 16 steps of k, into workgroup
// memory (8 KiB), and each of the 64 invocations multiplies 8 rows by 8 columns in registers from there: per step of k 4 words of 4
// elements for 64 multiply-adds. Operands lie in the tiles with rows (columns) side by side, whatever their layout in memory. How a tile is
// filled, kept and multiplied is in tile_f32 or tile_f16: products_of_tile.
// Why it is fast: workgroup memory is read once per 8 multiply-adds a word, global memory once per 64; neighbours read
// neighbouring words; two workgroups fit where one waits for memory.
// An invocation's second block of rows (columns) is half a tile away from the first, so that neighbours read neighbouring words.
// Dispatch: x = tiles of rows, y = tiles of columns, z = parts of k or experts, where there are any.
// Traffic: a is read n / 64 times and b m / 64 times.
// Accumulates in f32 along k in order; products as tile_f32 or tile_f16 says. DOWN and ACROSS make smaller tiles, for LoRA's r rows or
// columns.

override THREADS_X: u32 = 8u;  // across columns
override THREADS_Y: u32 = 8u;  // down rows
override ACROSS: u32 = 2u;     // blocks of 4 columns an invocation computes, 1 or 2
override DOWN: u32 = 2u;       // blocks of 4 rows
override K_TILE: u32 = 16u;    // a multiple of 8
override THREADS: u32 = THREADS_X * THREADS_Y;
override COLUMN_BLOCKS: u32 = THREADS_X * ACROSS;
override ROW_BLOCKS: u32 = THREADS_Y * DOWN;

// What an invocation computes: 2 x 2 blocks of 4 x 4, or those of them that ACROSS and DOWN leave.
struct Sums {
    top_left: mat4x4f,
    top_right: mat4x4f,
    bottom_left: mat4x4f,
    bottom_right: mat4x4f,
}

// Stores row 0 and moves the others up, so that there is one store site: a fourth of the compile time.
fn store_block(i: u32, j: u32, sums: mat4x4f) {
    var rows = sums;
    for (var row = i; row < min(i + 4u, rows_end()); row++) {
        store4(row, j, rows[0]);
        rows = mat4x4f(rows[1], rows[2], rows[3], vec4f());
    }
}

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_id) thread: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let begun = begin(group, ROW_BLOCKS * 4u);
    let first_row = begun.row;
    let first_column = group.y * COLUMN_BLOCKS * 4u;
    let sums = products_of_tile(begun, first_column, thread, lane);
    let top = first_row + thread.y * 4u;
    let left = first_column + thread.x * 4u;
    let bottom = top + THREADS_Y * 4u;
    let right = left + THREADS_X * 4u;
    store_block(top, left, sums.top_left);
    if DOWN == 2u {
        store_block(bottom, left, sums.bottom_left);
    }
    if ACROSS == 2u {
        store_block(top, right, sums.top_right);
        if DOWN == 2u {
            store_block(bottom, right, sums.bottom_right);
        }
    }
}
