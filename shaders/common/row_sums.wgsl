// Sums of rows, 4 columns of each: how four steps are added to those of one, and how a loop goes through those of eight.

alias EightRows = array<vec4f, 8>;

// sums[0 .. 4] + x . block for one row: x[step of k], block[step of k][column].
fn add_products(sums: vec4f, x: vec4f, block: mat4x4f) -> vec4f {
    return fma(vec4f(x.w), block[3], fma(vec4f(x.z), block[2], fma(vec4f(x.y), block[1], fma(vec4f(x.x), block[0], sums))));
}

// Moves row 1 to 0, 2 to 1, and so on: a loop that reads row 0 sees all, and keeps them in registers, where an index that
// varies would put them in memory.
fn next(rows: EightRows) -> EightRows {
    return EightRows(rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7], vec4f());
}
