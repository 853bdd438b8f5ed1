// Register tiles for drivers with subgroups of exactly 8: a tile is 8 or 16 rows of sums, and a lane owns 4 columns of each.
// A broadcast from a literal lane is a register shuffle, where a load of the same value would cost as much as a load of 8 different
// ones: so the lanes load 8 rows of the shared operand at once, each a different one, and spread them.

alias EightRows = array<vec4f, 8>;

// sums[0 .. 4] + x[0 .. 4] . own, with own[k][column].
fn add_products(sums: vec4f, x: vec4f, own: mat4x4f) -> vec4f {
    return fma(vec4f(x.w), own[3], fma(vec4f(x.z), own[2], fma(vec4f(x.y), own[1], fma(vec4f(x.x), own[0], sums))));
}

// Four steps of k for 8 rows: lane r holds row r's four values of the shared operand, `own` the lane's columns of the other one.
fn add_rows(sums: EightRows, shared_row: vec4f, own: mat4x4f) -> EightRows {
    return EightRows(
        add_products(sums[0], subgroupBroadcast(shared_row, 0u), own),
        add_products(sums[1], subgroupBroadcast(shared_row, 1u), own),
        add_products(sums[2], subgroupBroadcast(shared_row, 2u), own),
        add_products(sums[3], subgroupBroadcast(shared_row, 3u), own),
        add_products(sums[4], subgroupBroadcast(shared_row, 4u), own),
        add_products(sums[5], subgroupBroadcast(shared_row, 5u), own),
        add_products(sums[6], subgroupBroadcast(shared_row, 6u), own),
        add_products(sums[7], subgroupBroadcast(shared_row, 7u), own),
    );
}

// Rows 1 .. 7 move down and `last` becomes row 7. A loop that stores row 0 and then moves the rows keeps all of them in registers and
// has a single store; an index that varies would put them in memory, and 16 unrolled stores multiply the compile time by five.
fn moved_down(rows: EightRows, last: vec4f) -> EightRows {
    return EightRows(rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7], last);
}
