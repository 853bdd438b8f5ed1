// Blocks of 8 rows in subgroups of exactly 8, for kernels without workgroup memory: what one lane holds reaches the others by
// broadcast from a literal lane, which a CPU driver turns into a register shuffle. Needs HEAD_VEC4.

// One vec4 for each of 8 rows.
alias EightVectors = array<vec4f, 8>;

// Scalar products of the lane's vec4 with those that lanes 0 .. 4, or 4 .. 8, hold in `others`.
fn products_low(own: vec4f, others: vec4f) -> vec4f {
    return vec4f(
        dot(own, subgroupBroadcast(others, 0u)),
        dot(own, subgroupBroadcast(others, 1u)),
        dot(own, subgroupBroadcast(others, 2u)),
        dot(own, subgroupBroadcast(others, 3u)),
    );
}

fn products_high(own: vec4f, others: vec4f) -> vec4f {
    return vec4f(
        dot(own, subgroupBroadcast(others, 4u)),
        dot(own, subgroupBroadcast(others, 5u)),
        dot(own, subgroupBroadcast(others, 6u)),
        dot(own, subgroupBroadcast(others, 7u)),
    );
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

// Adds to vector i `value` times the weight that lane i holds.
fn add_products(vectors: EightVectors, weights: f32, value: vec4f) -> EightVectors {
    return EightVectors(
        fma(vec4f(subgroupBroadcast(weights, 0u)), value, vectors[0]),
        fma(vec4f(subgroupBroadcast(weights, 1u)), value, vectors[1]),
        fma(vec4f(subgroupBroadcast(weights, 2u)), value, vectors[2]),
        fma(vec4f(subgroupBroadcast(weights, 3u)), value, vectors[3]),
        fma(vec4f(subgroupBroadcast(weights, 4u)), value, vectors[4]),
        fma(vec4f(subgroupBroadcast(weights, 5u)), value, vectors[5]),
        fma(vec4f(subgroupBroadcast(weights, 6u)), value, vectors[6]),
        fma(vec4f(subgroupBroadcast(weights, 7u)), value, vectors[7]),
    );
}

// Moves vector 1 to 0, 2 to 1, and so on: a loop that reads vector 0 sees all, and keeps them in registers, where an index that
// varies would put them in memory.
fn next(vectors: EightVectors) -> EightVectors {
    return EightVectors(vectors[1], vectors[2], vectors[3], vectors[4], vectors[5], vectors[6], vectors[7], vec4f());
}

// Which vec4 of a head the lane holds in this slot: two that follow each other in each pair of slots. Past the end, one of the last pair.
fn column_of(slot: u32, lane: u32) -> u32 {
    return min(slot / 2u * 16u + 2u * lane, HEAD_VEC4 - 2u) + slot % 2u;
}
