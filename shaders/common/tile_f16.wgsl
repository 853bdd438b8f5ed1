// uses: enable_f16, matmul_operands
// How matmul_tiled fills, keeps and multiplies its tiles in f16: half of the workgroup memory traffic of f32, and twice the multiply-adds an
// instruction where a GPU has packed f16 arithmetic. Needs SHADER_F16.
//
// Range: f16 ends at 65504 and loses bits below 2^-14 = 6.1e-5, and activations and gradients do not keep to that. So GROUP = 8 steps of k
// of a row of a, and of a block of 4 columns of b, share a scale, a power of two that brings their largest magnitude into [32, 64): nothing
// can overflow, a sum of 8 products stays below 2^15, and whatever is more than 2^-19 of the largest keeps all its bits, however small the
// largest is. The scales come back when a group's sums are added to those in f32, as the factor of an fma, so that they cost little.
// A row of a has scales of its own, so its results do not depend on the rows beside it: the same tokens give the same numbers wherever they stand
// in a batch. An infinite or undefined operand gives an infinite or undefined result, as in f32.
//
// Accumulation: 8 products are summed in f16, then added to the sums in f32. With u = 2^-11 (2^-10 where a device does not round to nearest;
// WGSL leaves that open) an element is off by at most (2 + GROUP) u sum |a b|, operands, product and sums counted, and by about
// u sqrt((GROUP + 3) / 3 * sum (a b)^2) where errors are independent; see tests/half_precision.rs.

alias Word = vec4<f16>;
alias Block = mat4x4<f16>;
const GROUP = 8u;           // steps of k that share a scale and are summed in f16
const HEADROOM = 5u;        // the largest magnitude of a group is brought into [2^5, 2^6)
const LEAST_EXPONENT = 32u; // of f32, biased; below it (2^-95) scales end, and so does what an f32 product can hold

override A_WORDS: u32 = ROW_BLOCKS * K_TILE;
override B_WORDS: u32 = COLUMN_BLOCKS * K_TILE;
override A_SCALES: u32 = ROW_BLOCKS * K_TILE / GROUP;
override B_SCALES: u32 = COLUMN_BLOCKS * K_TILE / GROUP;

var<workgroup> a_tile: array<Word, A_WORDS>; // [step of k][block of 4 rows]
var<workgroup> b_tile: array<Word, B_WORDS>; // [step of k][block of 4 columns]
// An element is its scale times what the tile holds.
var<workgroup> a_scales: array<vec4f, A_SCALES>; // [group of steps][block of 4 rows], one a row
var<workgroup> b_scales: array<f32, B_SCALES>;   // [group of steps][block of 4 columns]

// Sums of 8 products.
struct Products {
    top_left: Block,
    top_right: Block,
    bottom_left: Block,
    bottom_right: Block,
}

// The largest magnitude of each row (column) of two blocks.
fn largest(first: mat4x4f, last: mat4x4f) -> vec4f {
    let of_first = max(max(abs(first[0]), abs(first[1])), max(abs(first[2]), abs(first[3])));
    let of_last = max(max(abs(last[0]), abs(last[1])), max(abs(last[2]), abs(last[3])));
    return max(of_first, of_last);
}

// The biased exponents of magnitudes.
fn exponents(magnitudes: vec4f) -> vec4u {
    return max(bitcast<vec4u>(magnitudes) >> vec4u(23u), vec4u(LEAST_EXPONENT));
}

// 2^(exponent - 127 - HEADROOM), and what undoes it; both are normal numbers for every exponent from LEAST_EXPONENT to 255.
fn scales(exponents: vec4u) -> vec4f {
    return bitcast<vec4f>((exponents - HEADROOM) << vec4u(23u));
}

fn inverse_scales(exponents: vec4u) -> vec4f {
    return bitcast<vec4f>((254u + HEADROOM - exponents) << vec4u(23u));
}

// Blocks of a and b, zeros where their steps lie past the end of k.
fn a_block_or_zero(i: u32, k: u32) -> mat4x4f {
    if k >= steps_end() {
        return mat4x4f();
    }
    return a_block(i, k);
}

fn b_block_or_zero(j: u32, k: u32) -> mat4x4f {
    if k >= steps_end() {
        return mat4x4f();
    }
    return b_block(j, k);
}

// Which part of a tile an invocation copies: (block of 4 rows or columns, group of steps of k). Neighbours go along memory.
fn place_in_tile(number: u32, blocks: u32, by_k: bool) -> vec2u {
    if by_k {
        return vec2u(number % blocks, number / blocks);
    }
    return vec2u(number / (K_TILE / GROUP), number % (K_TILE / GROUP));
}

fn stage_a(place: vec2u, row: u32, k: u32) {
    let first = a_block_or_zero(row, k);
    let last = a_block_or_zero(row, k + 4u);
    let of_rows = exponents(largest(first, last));
    let inverse = inverse_scales(of_rows);
    let at = place.y * GROUP * ROW_BLOCKS + place.x;
    a_scales[place.y * ROW_BLOCKS + place.x] = scales(of_rows);
    a_tile[at] = Word(inverse * first[0]);
    a_tile[at + ROW_BLOCKS] = Word(inverse * first[1]);
    a_tile[at + 2u * ROW_BLOCKS] = Word(inverse * first[2]);
    a_tile[at + 3u * ROW_BLOCKS] = Word(inverse * first[3]);
    a_tile[at + 4u * ROW_BLOCKS] = Word(inverse * last[0]);
    a_tile[at + 5u * ROW_BLOCKS] = Word(inverse * last[1]);
    a_tile[at + 6u * ROW_BLOCKS] = Word(inverse * last[2]);
    a_tile[at + 7u * ROW_BLOCKS] = Word(inverse * last[3]);
}

fn stage_b(place: vec2u, column: u32, k: u32) {
    let first = b_block_or_zero(column, k);
    let last = b_block_or_zero(column, k + 4u);
    let most = largest(first, last);
    let of_block = exponents(vec4f(max(max(most.x, most.y), max(most.z, most.w))));
    let inverse = inverse_scales(of_block);
    let at = place.y * GROUP * COLUMN_BLOCKS + place.x;
    b_scales[place.y * COLUMN_BLOCKS + place.x] = scales(of_block).x;
    b_tile[at] = Word(inverse * first[0]);
    b_tile[at + COLUMN_BLOCKS] = Word(inverse * first[1]);
    b_tile[at + 2u * COLUMN_BLOCKS] = Word(inverse * first[2]);
    b_tile[at + 3u * COLUMN_BLOCKS] = Word(inverse * first[3]);
    b_tile[at + 4u * COLUMN_BLOCKS] = Word(inverse * last[0]);
    b_tile[at + 5u * COLUMN_BLOCKS] = Word(inverse * last[1]);
    b_tile[at + 6u * COLUMN_BLOCKS] = Word(inverse * last[2]);
    b_tile[at + 7u * COLUMN_BLOCKS] = Word(inverse * last[3]);
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

// sums + products in f32, a scale for each row
fn add_scaled(sums: mat4x4f, of_rows: vec4f, products: Block) -> mat4x4f {
    return mat4x4f(
        fma(vec4f(of_rows.x), vec4f(products[0]), sums[0]),
        fma(vec4f(of_rows.y), vec4f(products[1]), sums[1]),
        fma(vec4f(of_rows.z), vec4f(products[2]), sums[2]),
        fma(vec4f(of_rows.w), vec4f(products[3]), sums[3]),
    );
}

// sums + the product of the tiles
fn add_tile(sums: Sums, thread: vec3u) -> Sums {
    var total = sums;
    for (var group = 0u; group < K_TILE / GROUP; group++) {
        var products = Products();
        for (var step = 0u; step < GROUP; step++) {
            products = add_step(products, group * GROUP + step, thread);
        }
        let a_top = a_scales[group * ROW_BLOCKS + thread.y];
        let b_left = b_scales[group * COLUMN_BLOCKS + thread.x];
        total.top_left = add_scaled(total.top_left, a_top * b_left, products.top_left);
        if DOWN == 2u {
            let a_bottom = a_scales[group * ROW_BLOCKS + THREADS_Y + thread.y];
            total.bottom_left = add_scaled(total.bottom_left, a_bottom * b_left, products.bottom_left);
        }
        if ACROSS == 2u {
            let b_right = b_scales[group * COLUMN_BLOCKS + THREADS_X + thread.x];
            total.top_right = add_scaled(total.top_right, a_top * b_right, products.top_right);
            if DOWN == 2u {
                let a_bottom = a_scales[group * ROW_BLOCKS + THREADS_Y + thread.y];
                total.bottom_right = add_scaled(total.bottom_right, a_bottom * b_right, products.bottom_right);
            }
        }
    }
    return total;
}

fn products_of_tile(begun: Begun, first_column: u32, thread: vec3u, lane: u32) -> Sums {
    var sums = Sums();
    for (var k = begun.step; k < begun.steps; k += K_TILE) {
        for (var number = lane; number < A_WORDS / GROUP; number += THREADS) {
            let place = place_in_tile(number, ROW_BLOCKS, A_BY_K);
            stage_a(place, begun.row + place.x * 4u, k + place.y * GROUP);
        }
        for (var number = lane; number < B_WORDS / GROUP; number += THREADS) {
            let place = place_in_tile(number, COLUMN_BLOCKS, B_BY_K);
            stage_b(place, first_column + place.x * 4u, k + place.y * GROUP);
        }
        workgroupBarrier();
        sums = add_tile(sums, thread);
        workgroupBarrier();
    }
    return sums;
}
