// uses: {tile_operands}
// How matmul_tiled keeps and multiplies its tiles in f32: as they are, each product added to the sums by one fma, along k in order.

alias Word = vec4f;    // an element of a tile: 4 rows (columns) of one step of k
alias Block = mat4x4f; // 4 rows by 4 columns of products
alias Sums = Products;
const GROUP = 4u;      // steps of k that an invocation copies at a time

fn stage_a(place: vec2u, row: u32, k: u32) {
    let block = a_block_or_zero(row, k);
    let at = place.y * GROUP * ROW_BLOCKS + place.x;
    a_tile[at] = block[0];
    a_tile[at + ROW_BLOCKS] = block[1];
    a_tile[at + 2u * ROW_BLOCKS] = block[2];
    a_tile[at + 3u * ROW_BLOCKS] = block[3];
}

fn stage_b(place: vec2u, column: u32, k: u32) {
    let block = b_block_or_zero(column, k);
    let at = place.y * GROUP * COLUMN_BLOCKS + place.x;
    b_tile[at] = block[0];
    b_tile[at + COLUMN_BLOCKS] = block[1];
    b_tile[at + 2u * COLUMN_BLOCKS] = block[2];
    b_tile[at + 3u * COLUMN_BLOCKS] = block[3];
}

// sums + the product of the tiles
fn add_tile(sums: Sums, thread: vec3u) -> Sums {
    var total = sums;
    for (var step = 0u; step < K_TILE; step++) {
        total = add_step(total, step, thread);
    }
    return total;
}
