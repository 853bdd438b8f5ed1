// uses: wide_loads, spread_rows, {head}
// Blocks of 8 rows in subgroups of exactly 8, for kernels without workgroup memory: what one lane holds reaches the others by
// broadcast from a literal lane, which a CPU driver turns into a register shuffle. Needs HEAD_VEC4.

// Adds the scalar products of the lane's vec4 with those that lanes 0 .. 4, or 4 .. 8, hold in `others`.
fn add_low(sums: vec4f, own: vec4f, others: vec4f) -> vec4f {
    return vec4f(
        add_product(sums.x, own, subgroupBroadcast(others, 0u)),
        add_product(sums.y, own, subgroupBroadcast(others, 1u)),
        add_product(sums.z, own, subgroupBroadcast(others, 2u)),
        add_product(sums.w, own, subgroupBroadcast(others, 3u)),
    );
}

fn add_high(sums: vec4f, own: vec4f, others: vec4f) -> vec4f {
    return vec4f(
        add_product(sums.x, own, subgroupBroadcast(others, 4u)),
        add_product(sums.y, own, subgroupBroadcast(others, 5u)),
        add_product(sums.z, own, subgroupBroadcast(others, 6u)),
        add_product(sums.w, own, subgroupBroadcast(others, 7u)),
    );
}

// sum + a . b, in fused multiply-adds, which drivers do not make of `dot`.
fn add_product(sum: f32, a: vec4f, b: vec4f) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

// Row i times the factor that lane i holds.
fn scaled(rows: EightRows, factors: f32) -> EightRows {
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

// The same 8 columns of four rows, a column of the matrices for each row.
struct FourEights {
    near: mat4x4f,
    far: mat4x4f,
}

fn four_eights(a: Eight, b: Eight, c: Eight, d: Eight) -> FourEights {
    return FourEights(mat4x4f(a.near, b.near, c.near, d.near), mat4x4f(a.far, b.far, c.far, d.far));
}

// The first of the two vec4s of a head that the lane holds in this pair. Past the end, that of the last lane.
fn column_of(pair: u32, lane: u32) -> u32 {
    return min(pair * 16u + 2u * lane, HEAD_VEC4 - 2u);
}
