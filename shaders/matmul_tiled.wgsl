// matmul for GPUs: out = scale * op(a) op(b) (+ addend) (+ out).
// Algorithm: a workgroup computes a tile of out, 64 x 64 by default. It copies a tile of a and one of b, K_TILE = 16 steps of k, into workgroup
// memory (8 KiB), and each of the 64 invocations multiplies 8 rows by 8 columns in registers from there: per step of k 4 vec4 reads
// for 64 multiply-adds. Operands lie in the tiles with rows (columns) side by side, whatever their layout in memory: blocks of
// 4 x 4 are transposed in registers on the way.
// Why it is fast: workgroup memory is read once per 8 multiply-adds a word, global memory once per 64; neighbours read
// neighbouring vec4s; two workgroups fit where one waits for memory.
// An invocation's second block of rows (columns) is half a tile away from the first, so that neighbours read neighbouring words.
// Dispatch: x = tiles of rows, y = tiles of columns. Traffic: a is read n / 64 times and b m / 64 times.
// Accumulates in f32 along k in order. DOWN and ACROSS make smaller tiles, for LoRA's r rows or columns.

override THREADS_X: u32 = 8u;  // across columns
override THREADS_Y: u32 = 8u;  // down rows
override ACROSS: u32 = 2u;     // blocks of 4 columns an invocation computes, 1 or 2
override DOWN: u32 = 2u;       // blocks of 4 rows
override K_TILE: u32 = 16u;
override COLUMN_BLOCKS: u32 = THREADS_X * ACROSS;
override ROW_BLOCKS: u32 = THREADS_Y * DOWN;
override A_WORDS: u32 = ROW_BLOCKS * K_TILE;
override B_WORDS: u32 = COLUMN_BLOCKS * K_TILE;

var<workgroup> a_tile: array<vec4f, A_WORDS>; // [step of k][block of 4 rows]
var<workgroup> b_tile: array<vec4f, B_WORDS>; // [step of k][block of 4 columns]

// Which 4 x 4 block of a tile an invocation copies: (block of rows or columns, block of k). Neighbours go along the operand's rows in
// memory.
fn place_in_tile(number: u32, blocks: u32, by_k: bool) -> vec2u {
    if by_k {
        return vec2u(number % blocks, number / blocks);
    }
    return vec2u(number / (K_TILE / 4u), number % (K_TILE / 4u));
}

// sums[row][column] + a[row] * b[column]
fn add_outer(sums: mat4x4f, a: vec4f, b: vec4f) -> mat4x4f {
    return mat4x4f(fma(vec4f(a.x), b, sums[0]), fma(vec4f(a.y), b, sums[1]), fma(vec4f(a.z), b, sums[2]), fma(vec4f(a.w), b, sums[3]));
}

// Stores row 0 and moves the others up, so that there is one store site: a fourth of the compile time.
fn store_block(i: u32, j: u32, sums: mat4x4f) {
    var rows = sums;
    for (var row = i; row < min(i + 4u, params.m); row++) {
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
    let first_row = group.x * ROW_BLOCKS * 4u;
    let first_column = group.y * COLUMN_BLOCKS * 4u;
    var top_left: mat4x4f;
    var top_right: mat4x4f;
    var bottom_left: mat4x4f;
    var bottom_right: mat4x4f;
    for (var k = 0u; k < params.k; k += K_TILE) {
        for (var number = lane; number < A_WORDS / 4u; number += THREADS_X * THREADS_Y) {
            let place = place_in_tile(number, ROW_BLOCKS, A_BY_K);
            let block = a_block_or_zero(first_row + place.x * 4u, k + place.y * 4u);
            let at = place.y * 4u * ROW_BLOCKS + place.x;
            a_tile[at] = block[0];
            a_tile[at + ROW_BLOCKS] = block[1];
            a_tile[at + 2u * ROW_BLOCKS] = block[2];
            a_tile[at + 3u * ROW_BLOCKS] = block[3];
        }
        for (var number = lane; number < B_WORDS / 4u; number += THREADS_X * THREADS_Y) {
            let place = place_in_tile(number, COLUMN_BLOCKS, B_BY_K);
            let block = b_block_or_zero(first_column + place.x * 4u, k + place.y * 4u);
            let at = place.y * 4u * COLUMN_BLOCKS + place.x;
            b_tile[at] = block[0];
            b_tile[at + COLUMN_BLOCKS] = block[1];
            b_tile[at + 2u * COLUMN_BLOCKS] = block[2];
            b_tile[at + 3u * COLUMN_BLOCKS] = block[3];
        }
        workgroupBarrier();
        for (var step = 0u; step < K_TILE; step++) {
            let a_top = a_tile[step * ROW_BLOCKS + thread.y];
            let b_left = b_tile[step * COLUMN_BLOCKS + thread.x];
            top_left = add_outer(top_left, a_top, b_left);
            if DOWN == 2u {
                bottom_left = add_outer(bottom_left, a_tile[step * ROW_BLOCKS + THREADS_Y + thread.y], b_left);
            }
            if ACROSS == 2u {
                let b_right = b_tile[step * COLUMN_BLOCKS + THREADS_X + thread.x];
                top_right = add_outer(top_right, a_top, b_right);
                if DOWN == 2u {
                    bottom_right = add_outer(bottom_right, a_tile[step * ROW_BLOCKS + THREADS_Y + thread.y], b_right);
                }
            }
        }
        workgroupBarrier();
    }
    let top = first_row + thread.y * 4u;
    let left = first_column + thread.x * 4u;
    let bottom = top + THREADS_Y * 4u;
    let right = left + THREADS_X * 4u;
    store_block(top, left, top_left);
    if DOWN == 2u {
        store_block(bottom, left, bottom_left);
    }
    if ACROSS == 2u {
        store_block(top, right, top_right);
        if DOWN == 2u {
            store_block(bottom, right, bottom_right);
        }
    }
}
