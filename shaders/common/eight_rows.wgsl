// uses: matmul_io, row_sums
// Eight rows of sums that an invocation holds in registers, 4 columns of each, and how they leave.

// Stores rows first .. end (at most 8), 4 columns from `column` on. The loop stores row 0 and moves the others down, which keeps all of
// them in registers and has one store site: an index that varies would put them in memory, and unrolled stores take five times as long
// to compile on a CPU driver.
fn store_rows(first: u32, end: u32, column: u32, sums: EightRows) {
    var rows = sums;
    for (var row = first; row < end; row++) {
        store4(row, column, rows[0]);
        rows = next(rows);
    }
}

// The same where the sums are transposed: they hold columns first .. end (at most 8) of out, for 4 rows from `row` on.
fn store_columns(row: u32, first: u32, end: u32, sums: EightRows) {
    var columns = sums;
    for (var column = first; column < end; column += 4u) {
        let block = transpose(mat4x4f(columns[0], columns[1], columns[2], columns[3]));
        store4(row, column, block[0]);
        store4(row + 1u, column, block[1]);
        store4(row + 2u, column, block[2]);
        store4(row + 3u, column, block[3]);
        columns = EightRows(columns[4], columns[5], columns[6], columns[7], vec4f(), vec4f(), vec4f(), vec4f());
    }
}
