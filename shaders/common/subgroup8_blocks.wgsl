// uses: wide_loads, spread_rows
// Tiles of attention in subgroups of exactly 8, for kernels without workgroup memory: 8 rows (query vectors, or keys), one a lane, by 32 columns
// (keys, or query vectors), 4 a lane. First a lane has 4 columns of all rows: scores. Then it has 8 columns of a head for all rows: sums of
// the columns' vectors, weighted. What one lane holds reaches the others by a shuffle, which a CPU driver turns into one of registers.
// Needs HEAD_VEC4.

// Two blocks of rows for heads of up to 64 columns; one for larger ones, whose lanes hold more columns.
override ROWS: u32 = 16u; // 8 or 16

// The same 8 columns of a head of four vectors, a column of the matrices for each vector.
struct FourEights {
    near: mat4x4f,
    far: mat4x4f,
}

fn four_eights(a: Eight, b: Eight, c: Eight, d: Eight) -> FourEights {
    return FourEights(mat4x4f(a.near, b.near, c.near, d.near), mat4x4f(a.far, b.far, c.far, d.far));
}

// Adds the products of 8 columns of a head: those of the rows, which the lanes hold, with those of the lane's four vectors.
fn add_scores(scores: EightRows, row: Eight, own: FourEights) -> EightRows {
    return add_rows(add_rows(scores, row.near, transpose(own.near)), row.far, transpose(own.far));
}

// What `source` holds of each row.
fn of_lane(rows: EightRows, source: u32) -> EightRows {
    return EightRows(
        subgroupShuffle(rows[0], source),
        subgroupShuffle(rows[1], source),
        subgroupShuffle(rows[2], source),
        subgroupShuffle(rows[3], source),
        subgroupShuffle(rows[4], source),
        subgroupShuffle(rows[5], source),
        subgroupShuffle(rows[6], source),
        subgroupShuffle(rows[7], source),
    );
}

// Of each row the first four of the lane's columns of a head, and the last. Variables of their own rather than arrays of them: an array that a
// long loop indexes by another loop is memory on a CPU driver.
struct Sums {
    near: EightRows,
    far: EightRows,
}

// Adds four vectors, weighted: weights[row][vector].
fn add_vectors(sums: Sums, weights: EightRows, vectors: FourEights) -> Sums {
    return Sums(add_each(sums.near, weights, vectors.near), add_each(sums.far, weights, vectors.far));
}

fn add_each(sums: EightRows, weights: EightRows, own: mat4x4f) -> EightRows {
    return EightRows(
        add_products(sums[0], weights[0], own),
        add_products(sums[1], weights[1], own),
        add_products(sums[2], weights[2], own),
        add_products(sums[3], weights[3], own),
        add_products(sums[4], weights[4], own),
        add_products(sums[5], weights[5], own),
        add_products(sums[6], weights[6], own),
        add_products(sums[7], weights[7], own),
    );
}

// Row i times the factor that lane i holds.
fn scaled(sums: Sums, factors: f32) -> Sums {
    return Sums(scaled_rows(sums.near, factors), scaled_rows(sums.far, factors));
}

fn scaled_rows(rows: EightRows, factors: f32) -> EightRows {
    return EightRows(
        rows[0] * subgroupBroadcast(factors, 0u),
        rows[1] * subgroupBroadcast(factors, 1u),
        rows[2] * subgroupBroadcast(factors, 2u),
        rows[3] * subgroupBroadcast(factors, 3u),
        rows[4] * subgroupBroadcast(factors, 4u),
        rows[5] * subgroupBroadcast(factors, 5u),
        rows[6] * subgroupBroadcast(factors, 6u),
        rows[7] * subgroupBroadcast(factors, 7u),
    );
}

// The first of the two vec4s of a head that the lane holds in its 64 columns `part`. Past the end, that of the last lane.
fn column_of(part: u32, lane: u32) -> u32 {
    return min(part * 16u + 2u * lane, HEAD_VEC4 - 2u);
}
