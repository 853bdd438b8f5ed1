// uses: matmul_operands, {element}, {square}
// matmul NT and NN on cooperative matrices (tensor cores, simdgroup matrices): out = scale * a op(b) (+ addend) (+ out).
// Algorithm: a workgroup of 4 subgroups computes a tile of 64 x 64 of out. It copies 64 rows of a and of b, K_TILE steps of k, into workgroup
// memory, in the type that the matrices take (cooperative_f16, cooperative_f32); from there each subgroup multiplies a quarter of
// 32 x 32, as 2 x 2 squares of 16 x 16 (cooperative_16, or cooperative_8 where matrices are smaller). Out leaves through workgroup memory, a square
// at a time, since which invocation holds which element of a matrix is the device's secret, and tails, addend and scale need to know.
// Why it is fast: a matrix unit does 16 x 16 x 16 multiply-adds with one instruction; each square that is loaded from workgroup memory is
// multiplied twice, global memory is read once per 64 multiply-adds. Rows in workgroup memory are padded by 8 elements, so that
// a matrix's rows begin in different banks, and still on 16 bytes.
// Subgroups: THREADS is 4 times the largest size that the device has. Where it runs smaller ones there are more than 4; those beyond
// share the copying and repeat the quarter of another, with the same result.
// Range: in NN a is a gradient, which may be smaller than any f16. Where the matrices take f16, each of its rows is brought into range by a
// power of two of its own (cooperative_f16) before it is copied, and out's row back when it leaves; for that a is read once more, first.
// Dispatch: x = tiles of rows, y = tiles of columns. Traffic: a is read n / 64 times and b m / 64 times.
// Accumulates in f32, in an order that is the device's own within K_TILE steps, along k beyond them.

override THREADS: u32 = 128u;
const TILE = 64u;              // rows and columns of out
const QUARTER = 32u;
const SQUARE = 16u;
const STRIDE = K_TILE + 8u;    // elements from one row of a tile to the next

var<workgroup> a_tile: array<Element, TILE * STRIDE>; // [row][step of k]
var<workgroup> b_tile: array<Element, TILE * STRIDE>; // [column][step of k]
var<workgroup> patches: array<f32, 4u * SQUARE * SQUARE>; // [quarter][row][column], a square of each quarter

fn rows_are_scaled() -> bool {
    return B_BY_K && NARROW_RANGE;
}

// Chooses the scales, by the largest magnitude of each row of a; `patches` has those of every eighth vec4 meanwhile, [row][which].
fn find_scales(first_row: u32, lane: u32) {
    for (var number = lane; number < TILE * 8u; number += THREADS) {
        var most = vec4f();
        for (var k = number % 8u * 4u; k < params.k; k += 32u) {
            most = max(most, abs(a_steps(first_row + number / 8u, k)));
        }
        patches[number] = max(max(most.x, most.y), max(most.z, most.w));
    }
    workgroupBarrier();
    for (var row = lane; row < TILE; row += THREADS) {
        var most = 0.0;
        for (var at = row * 8u; at < row * 8u + 8u; at++) {
            most = max(most, patches[at]);
        }
        keep_scale(row, most);
    }
    workgroupBarrier();
}

fn put_a(at: u32, values: vec4<Element>) {
    a_tile[at] = values.x;
    a_tile[at + 1u] = values.y;
    a_tile[at + 2u] = values.z;
    a_tile[at + 3u] = values.w;
}

fn put_b(at: u32, values: vec4<Element>) {
    b_tile[at] = values.x;
    b_tile[at + 1u] = values.y;
    b_tile[at + 2u] = values.z;
    b_tile[at + 3u] = values.w;
}

// Copies rows of a, K_TILE steps from k on, 4 at a time; steps past the end of k are zeros.
fn stage_a(first_row: u32, k: u32, lane: u32) {
    for (var number = lane; number < TILE * K_TILE / 4u; number += THREADS) {
        let line = number / (K_TILE / 4u);
        let step = number % (K_TILE / 4u) * 4u;
        var values = vec4f();
        if k + step < params.k {
            values = a_steps(first_row + line, k + step);
        }
        if rows_are_scaled() {
            values *= inverse_scale(line);
        }
        put_a(line * STRIDE + step, elements(values));
    }
}

// Copies columns of op(b) likewise; where they do not lie along memory, 4 of them at once, so that what is read does.
fn stage_b(first_column: u32, k: u32, lane: u32) {
    if !B_BY_K {
        for (var number = lane; number < TILE * K_TILE / 4u; number += THREADS) {
            let line = number / (K_TILE / 4u);
            let step = number % (K_TILE / 4u) * 4u;
            var values = vec4f();
            if k + step < params.k {
                values = b_steps(first_column + line, k + step);
            }
            put_b(line * STRIDE + step, elements(values));
        }
        return;
    }
    for (var number = lane; number < TILE * K_TILE / 16u; number += THREADS) {
        let line = number % (TILE / 4u) * 4u;
        let step = number / (TILE / 4u) * 4u;
        var block = mat4x4f(); // a column for each column of b
        if k + step < params.k {
            block = transpose(b_block(first_column + line, k + step));
        }
        put_b(line * STRIDE + step, elements(block[0]));
        put_b((line + 1u) * STRIDE + step, elements(block[1]));
        put_b((line + 2u) * STRIDE + step, elements(block[2]));
        put_b((line + 3u) * STRIDE + step, elements(block[3]));
    }
}

// Stores the patches, of which that of the first quarter belongs at this row and column of the tile, whose first are i and j of out.
fn store_patches(i: u32, j: u32, row: u32, column: u32, lane: u32) {
    for (var number = lane; number < SQUARE * SQUARE; number += THREADS) {
        let quarter = number / 64u;
        let own_row = row + quarter / 2u * QUARTER + number % 64u / 4u;
        let own_column = column + quarter % 2u * QUARTER + number % 4u * 4u;
        let at = 4u * number;
        var sums = vec4f(patches[at], patches[at + 1u], patches[at + 2u], patches[at + 3u]);
        if rows_are_scaled() {
            sums *= scale(own_row);
        }
        store4(i + own_row, j + own_column, sums);
    }
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let first_row = group.x * TILE;
    let first_column = group.y * TILE;
    let quarter = subgroup % 4u;
    let own_patch = quarter * SQUARE * SQUARE;
    let row = quarter / 2u * QUARTER * STRIDE;
    let column = quarter % 2u * QUARTER * STRIDE;
    if rows_are_scaled() {
        find_scales(first_row, lane);
    }
    // A matrix of zeros, by the one way that every backend has.
    for (var number = lane; number < 4u * SQUARE * SQUARE; number += THREADS) {
        patches[number] = 0.0;
    }
    workgroupBarrier();
    var top_left = load_square(own_patch);
    var top_right = top_left;
    var bottom_left = top_left;
    var bottom_right = top_left;
    for (var k = 0u; k < params.k; k += K_TILE) {
        stage_a(first_row, k, lane);
        stage_b(first_column, k, lane);
        workgroupBarrier();
        for (var step = 0u; step < K_TILE; step += SQUARE) {
            let a_top = load_left(row + step);
            let a_bottom = load_left(row + SQUARE * STRIDE + step);
            let b_left = load_right(column + step);
            let b_right = load_right(column + SQUARE * STRIDE + step);
            top_left = multiply_add(a_top, b_left, top_left);
            top_right = multiply_add(a_top, b_right, top_right);
            bottom_left = multiply_add(a_bottom, b_left, bottom_left);
            bottom_right = multiply_add(a_bottom, b_right, bottom_right);
        }
        workgroupBarrier();
    }
    store_square(top_left, own_patch);
    workgroupBarrier();
    store_patches(first_row, first_column, 0u, 0u, lane);
    workgroupBarrier();
    store_square(top_right, own_patch);
    workgroupBarrier();
    store_patches(first_row, first_column, 0u, SQUARE, lane);
    workgroupBarrier();
    store_square(bottom_left, own_patch);
    workgroupBarrier();
    store_patches(first_row, first_column, SQUARE, 0u, lane);
    workgroupBarrier();
    store_square(bottom_right, own_patch);
    workgroupBarrier();
    store_patches(first_row, first_column, SQUARE, SQUARE, lane);
}
