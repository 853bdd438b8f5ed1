// uses: {tile}
// matmul for GPUs: out = scale * op(a) op(b) (+ addend) (+ out).
// Algorithm: a workgroup computes a tile of out, 64 x 64 by default. It copies a tile of a and one of b, K_TILE = 16 steps of k, into workgroup
// memory (8 KiB), and each of the 64 invocations multiplies 8 rows by 8 columns in registers from there: per step of k 4 words of 4
// elements for 64 multiply-adds. Operands lie in the tiles with rows (columns) side by side, whatever their layout in memory: blocks of
// 4 x 4 are transposed in registers on the way. How a tile is kept and multiplied is in tile_f32 or tile_f16: stage_a, stage_b, add_tile. What it is made of is in tile_operands, or with a
// low-rank term in tile_operands_low_rank.
// Why it is fast: workgroup memory is read once per 8 multiply-adds a word, global memory once per 64; neighbours read
// neighbouring words; two workgroups fit where one waits for memory.
// An invocation's second block of rows (columns) is half a tile away from the first, so that neighbours read neighbouring words.
// Dispatch: x = tiles of rows, y = tiles of columns. Traffic: a is read n / 64 times and b m / 64 times.
// Accumulates in f32 along k in order; products as tile_f32 or tile_f16 says. DOWN and ACROSS make smaller tiles, for LoRA's r rows or
// columns.

override THREADS_X: u32 = 8u;  // across columns
override THREADS_Y: u32 = 8u;  // down rows
override ACROSS: u32 = 2u;     // blocks of 4 columns an invocation computes, 1 or 2
override DOWN: u32 = 2u;       // blocks of 4 rows
override K_TILE: u32 = 16u;
override COLUMN_BLOCKS: u32 = THREADS_X * ACROSS;
override ROW_BLOCKS: u32 = THREADS_Y * DOWN;
override A_WORDS: u32 = ROW_BLOCKS * K_TILE;
override B_WORDS: u32 = COLUMN_BLOCKS * K_TILE;

var<workgroup> a_tile: array<Word, A_WORDS>; // [step of k][block of 4 rows]
var<workgroup> b_tile: array<Word, B_WORDS>; // [step of k][block of 4 columns]

// What an invocation computes: 2 x 2 blocks of 4 x 4, or those of them that ACROSS and DOWN leave.
struct Products {
    top_left: Block,
    top_right: Block,
    bottom_left: Block,
    bottom_right: Block,
}

// Which part of a tile an invocation copies: (block of 4 rows or columns, group of steps of k). Neighbours go along the operand's rows in
// memory.
fn place_in_tile(number: u32, blocks: u32, by_k: bool) -> vec2u {
    if by_k {
        return vec2u(number % blocks, number / blocks);
    }
    return vec2u(number / (K_TILE / GROUP), number % (K_TILE / GROUP));
}

// products[row][column] + a[row] * b[column]
fn add_outer(products: Block, a: Word, b: Word) -> Block {
    return Block(fma(Word(a.x), b, products[0]), fma(Word(a.y), b, products[1]), fma(Word(a.z), b, products[2]), fma(Word(a.w), b, products[3]));
}

// products + those of one step of k
fn add_step(products: Products, step: u32, thread: vec3u) -> Products {
    var total = products;
    let a_top = a_tile[step * ROW_BLOCKS + thread.y];
    let b_left = b_tile[step * COLUMN_BLOCKS + thread.x];
    total.top_left = add_outer(total.top_left, a_top, b_left);
    if DOWN == 2u {
        total.bottom_left = add_outer(total.bottom_left, a_tile[step * ROW_BLOCKS + THREADS_Y + thread.y], b_left);
    }
    if ACROSS == 2u {
        let b_right = b_tile[step * COLUMN_BLOCKS + THREADS_X + thread.x];
        total.top_right = add_outer(total.top_right, a_top, b_right);
        if DOWN == 2u {
            total.bottom_right = add_outer(total.bottom_right, a_tile[step * ROW_BLOCKS + THREADS_Y + thread.y], b_right);
        }
    }
    return total;
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
    var sums = Sums();
    for (var k = 0u; k < begun.steps + more_steps(); k += K_TILE) {
        for (var number = lane; number < A_WORDS / GROUP; number += THREADS_X * THREADS_Y) {
            let place = place_in_tile(number, ROW_BLOCKS, A_BY_K);
            stage_a(place, first_row + place.x * 4u, k + place.y * GROUP);
        }
        for (var number = lane; number < B_WORDS / GROUP; number += THREADS_X * THREADS_Y) {
            let place = place_in_tile(number, COLUMN_BLOCKS, B_BY_K);
            stage_b(place, first_column + place.x * 4u, k + place.y * GROUP);
        }
        workgroupBarrier();
        sums = add_tile(sums, thread);
        workgroupBarrier();
    }
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
