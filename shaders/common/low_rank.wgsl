// uses: wide_loads, matmul_operands
// The low-rank term of matmul_low_rank, low_rank_scale * u op(v), added to the sums of a tile while they are in registers. It has as few
// steps as the rank, so it costs little beside the product, and saves the pass over out that a product of its own would take.
// Rows and columns past the end read the last ones instead, as in matmul_operands. Needs wide_loads.

@group(0) @binding(5) var<storage, read> u: array<vec2<u64>>; // [m, rank]
@group(0) @binding(6) var<storage, read> v: array<vec2<u64>>; // [n, rank], or where B_BY_K [rank, n]

// v[j, k .. k + 4]
fn v_steps(j: u32, k: u32) -> vec4f {
    return four_of(v[(params.v_start + min(j, params.n - 1u) * params.rank + k) / 4u]);
}

// v[j .. j + 4, k .. k + 4], a column for each step of k.
fn v_block(j: u32, k: u32) -> mat4x4f {
    if !B_BY_K {
        return transpose(mat4x4f(v_steps(j, k), v_steps(j + 1u, k), v_steps(j + 2u, k), v_steps(j + 3u, k)));
    }
    let at = (vec4u(k, k + 1u, k + 2u, k + 3u) * params.n + min(j, params.n - 4u)) / 4u;
    return mat4x4f(four_of(v[at.x]), four_of(v[at.y]), four_of(v[at.z]), four_of(v[at.w]));
}

// low_rank_scale * u[i, k .. k + 4]
fn u_steps(i: u32, k: u32) -> vec4f {
    return params.low_rank_scale * four_of(u[(min(i, params.m - 1u) * params.rank + k) / 4u]);
}

// The steps that a tile adds: the loop over them stands in the kernel, since on a CPU driver sums that pass through a function with a
// loop are copied through memory, which costs a quarter of the speed.
fn low_rank_steps() -> u32 {
    return params.rank;
}

// The term of one column, for u of one row.
fn low_rank_sum(column: u32) -> f32 {
    var sum = 0.0;
    for (var k = 0u; k < params.rank; k += 4u) {
        sum += dot(u_steps(0u, k), v_steps(column, k));
    }
    return sum;
}
