// uses: {tile_operands}
// How matmul_tiled fills, keeps and multiplies its tiles in f32: elements as they are, each product added to the sums by one fma, along k in
// order. An invocation copies pieces of 8 elements that follow each other in memory, so that what 8 weights of a block share is decoded once; where
// they lie in memory is computed before the loop over k. Where k lies along the rows, an element of a piece goes to each of 8 steps of the tile, by
// words of 4 bytes; compilers read the tile by words of 16.
// Two loops: whole tiles without a check of k, then what is left (the last steps, a low-rank term), checked, by fours and not unrolled, for few
// registers: what either loop holds counts for both.

override A_SIZE: u32 = 4u * ROW_BLOCKS * K_TILE;
override B_SIZE: u32 = 4u * COLUMN_BLOCKS * K_TILE;
override A_PIECES: u32 = A_SIZE / 8u / THREADS; // that an invocation copies
override B_PIECES: u32 = B_SIZE / 8u / THREADS;

var<workgroup> a_tile: array<f32, A_SIZE>; // [step of k][row]
var<workgroup> b_tile: array<f32, B_SIZE>; // [step of k][column]

// The line (row or column) and the step of k where piece `number` of a tile with so many lines begins, of pieces of so many elements.
// Neighbours go along memory.
fn place_of(number: u32, lines: u32, by_k: bool, length: u32) -> vec2u {
    if by_k {
        return vec2u(number % (lines / length) * length, number / (lines / length));
    }
    return vec2u(number / (K_TILE / length), number % (K_TILE / length) * length);
}

// Four elements that follow each other in memory.
fn store_a4(place: vec2u, four: vec4f) {
    let at = place.y * 4u * ROW_BLOCKS + place.x;
    let next = select(4u * ROW_BLOCKS, 1u, A_BY_K);
    a_tile[at] = four.x;
    a_tile[at + next] = four.y;
    a_tile[at + 2u * next] = four.z;
    a_tile[at + 3u * next] = four.w;
}

fn store_b4(place: vec2u, four: vec4f) {
    let at = place.y * 4u * COLUMN_BLOCKS + place.x;
    let next = select(4u * COLUMN_BLOCKS, 1u, B_BY_K);
    b_tile[at] = four.x;
    b_tile[at + next] = four.y;
    b_tile[at + 2u * next] = four.z;
    b_tile[at + 3u * next] = four.w;
}

fn store_a(number: u32, piece: Eight) {
    let place = place_of(number, 4u * ROW_BLOCKS, A_BY_K, 8u);
    store_a4(place, piece.near);
    store_a4(place + ahead_in_piece(A_BY_K), piece.far);
}

fn store_b(number: u32, piece: Eight) {
    let place = place_of(number, 4u * COLUMN_BLOCKS, B_BY_K, 8u);
    store_b4(place, piece.near);
    store_b4(place + ahead_in_piece(B_BY_K), piece.far);
}

fn a_word(step: u32, block: u32) -> vec4f {
    let at = 4u * (step * ROW_BLOCKS + block);
    return vec4f(a_tile[at], a_tile[at + 1u], a_tile[at + 2u], a_tile[at + 3u]);
}

fn b_word(step: u32, block: u32) -> vec4f {
    let at = 4u * (step * COLUMN_BLOCKS + block);
    return vec4f(b_tile[at], b_tile[at + 1u], b_tile[at + 2u], b_tile[at + 3u]);
}

// products[row][column] + a[row] * b[column]
fn add_outer(products: mat4x4f, a: vec4f, b: vec4f) -> mat4x4f {
    return mat4x4f(
        fma(vec4f(a.x), b, products[0]),
        fma(vec4f(a.y), b, products[1]),
        fma(vec4f(a.z), b, products[2]),
        fma(vec4f(a.w), b, products[3]),
    );
}

// sums + the products of one step of k. All words are read before the first is multiplied, so that one wait serves several.
fn add_step(sums: Sums, step: u32, thread: vec3u) -> Sums {
    var total = sums;
    var a_bottom: vec4f;
    var b_right: vec4f;
    let a_top = a_word(step, thread.y);
    if DOWN == 2u {
        a_bottom = a_word(step, THREADS_Y + thread.y);
    }
    let b_left = b_word(step, thread.x);
    if ACROSS == 2u {
        b_right = b_word(step, THREADS_X + thread.x);
        total.top_right = add_outer(total.top_right, a_top, b_right);
    }
    total.top_left = add_outer(total.top_left, a_top, b_left);
    if DOWN == 2u {
        total.bottom_left = add_outer(total.bottom_left, a_bottom, b_left);
        if ACROSS == 2u {
            total.bottom_right = add_outer(total.bottom_right, a_bottom, b_right);
        }
    }
    return total;
}

fn products_of_tile(begun: Begun, first_column: u32, thread: vec3u, lane: u32) -> Sums {
    var sums = Sums();
    let a_lane = place_of(lane, 4u * ROW_BLOCKS, A_BY_K, 8u);
    let b_lane = place_of(lane, 4u * COLUMN_BLOCKS, B_BY_K, 8u);
    let a_next = place_of(THREADS, 4u * ROW_BLOCKS, A_BY_K, 8u);
    let b_next = place_of(THREADS, 4u * COLUMN_BLOCKS, B_BY_K, 8u);
    let a_path = path_of_a(begun.row + a_lane.x, a_lane.y, a_next);
    let b_path = path_of_b(first_column + b_lane.x, b_lane.y, b_next);
    var k = begun.step;
    for (; k + K_TILE <= begun.steps; k += K_TILE) {
        for (var piece = 0u; piece < A_PIECES; piece++) {
            store_a(piece * THREADS + lane, a_piece(a_path, piece, k));
        }
        for (var piece = 0u; piece < B_PIECES; piece++) {
            store_b(piece * THREADS + lane, b_piece(b_path, piece, k));
        }
        workgroupBarrier();
        for (var step = 0u; step < K_TILE; step++) {
            sums = add_step(sums, step, thread);
        }
        workgroupBarrier();
    }
    let end = begun.steps + more_steps();
    for (; k < end; k += K_TILE) {
        for (var number = lane; number < A_SIZE / 4u; number += THREADS) {
            let place = place_of(number, 4u * ROW_BLOCKS, A_BY_K, 4u);
            store_a4(place, a_rest(begun.row + place.x, k + place.y));
        }
        for (var number = lane; number < B_SIZE / 4u; number += THREADS) {
            let place = place_of(number, 4u * COLUMN_BLOCKS, B_BY_K, 4u);
            store_b4(place, b_rest(first_column + place.x, k + place.y));
        }
        workgroupBarrier();
        let steps = min(K_TILE, end - k);
        for (var step = 0u; step < steps; step++) {
            sums = add_step(sums, step, thread);
        }
        workgroupBarrier();
    }
    return sums;
}
