// uses: row_sums
// How the kernels for subgroups of 8 multiply: the rows of one operand are loaded once by the subgroup, lane = row, and spread by broadcast to
// the columns of the other one that each lane owns. Needs subgroups of exactly 8; the lanes are literals, which makes a broadcast a
// register shuffle.

// Four steps for 8 rows: lane r holds row r of the spread operand, `own` the lane's columns of the other one, a column for each step. Four at once,
// since sums that are added to step by step are loaded and stored as often (older drivers then take twice the time).
fn add_rows(sums: EightRows, spread: vec4f, own: mat4x4f) -> EightRows {
    return EightRows(
        add_products(sums[0], subgroupBroadcast(spread, 0u), own),
        add_products(sums[1], subgroupBroadcast(spread, 1u), own),
        add_products(sums[2], subgroupBroadcast(spread, 2u), own),
        add_products(sums[3], subgroupBroadcast(spread, 3u), own),
        add_products(sums[4], subgroupBroadcast(spread, 4u), own),
        add_products(sums[5], subgroupBroadcast(spread, 5u), own),
        add_products(sums[6], subgroupBroadcast(spread, 6u), own),
        add_products(sums[7], subgroupBroadcast(spread, 7u), own),
    );
}
