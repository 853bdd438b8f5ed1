// uses: wide_loads, {head}
// Blocks of 8 rows in subgroups of exactly 8, for kernels without workgroup memory: what one lane holds reaches the others by
// broadcast from a literal lane, which a CPU driver turns into a register shuffle. Needs HEAD_VEC4.

// One vec4 for each of 8 rows.
alias EightVectors = array<vec4f, 8>;

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

// Vector i times the factor that lane i holds.
fn scaled(vectors: EightVectors, factors: f32) -> EightVectors {
    return EightVectors(
        vectors[0] * subgroupBroadcast(factors, 0u),
        vectors[1] * subgroupBroadcast(factors, 1u),
        vectors[2] * subgroupBroadcast(factors, 2u),
        vectors[3] * subgroupBroadcast(factors, 3u),
        vectors[4] * subgroupBroadcast(factors, 4u),
        vectors[5] * subgroupBroadcast(factors, 5u),
        vectors[6] * subgroupBroadcast(factors, 6u),
        vectors[7] * subgroupBroadcast(factors, 7u),
    );
}

// Adds to vector i four values, a column each, times the weights that lane i holds for them: four at once, since sums that are added to
// one by one are loaded and stored as often (older drivers then take twice the time).
fn add_weighted(vectors: EightVectors, weights: vec4f, values: mat4x4f) -> EightVectors {
    return EightVectors(
        weighted(vectors[0], subgroupBroadcast(weights, 0u), values),
        weighted(vectors[1], subgroupBroadcast(weights, 1u), values),
        weighted(vectors[2], subgroupBroadcast(weights, 2u), values),
        weighted(vectors[3], subgroupBroadcast(weights, 3u), values),
        weighted(vectors[4], subgroupBroadcast(weights, 4u), values),
        weighted(vectors[5], subgroupBroadcast(weights, 5u), values),
        weighted(vectors[6], subgroupBroadcast(weights, 6u), values),
        weighted(vectors[7], subgroupBroadcast(weights, 7u), values),
    );
}

fn weighted(sum: vec4f, weights: vec4f, values: mat4x4f) -> vec4f {
    let first = fma(vec4f(weights.y), values[1], fma(vec4f(weights.x), values[0], sum));
    return fma(vec4f(weights.w), values[3], fma(vec4f(weights.z), values[2], first));
}

// The same 8 columns of four rows, a column of the matrices for each row.
struct FourEights {
    near: mat4x4f,
    far: mat4x4f,
}

fn four_eights(a: Eight, b: Eight, c: Eight, d: Eight) -> FourEights {
    return FourEights(mat4x4f(a.near, b.near, c.near, d.near), mat4x4f(a.far, b.far, c.far, d.far));
}

// Moves vector 1 to 0, 2 to 1, and so on: a loop that reads vector 0 sees all, and keeps them in registers, where an index that
// varies would put them in memory.
fn next(vectors: EightVectors) -> EightVectors {
    return EightVectors(vectors[1], vectors[2], vectors[3], vectors[4], vectors[5], vectors[6], vectors[7], vec4f());
}

// The first of the two vec4s of a head that the lane holds in this pair. Past the end, that of the last lane.
fn column_of(pair: u32, lane: u32) -> u32 {
    return min(pair * 16u + 2u * lane, HEAD_VEC4 - 2u);
}
