// uses: matmul_operands
// tile_operands with the low-rank term of matmul_low_rank, low_rank_scale * u op(v): its steps follow those of k, as
// if u stood beside a, and v beside b. It costs a tile at the most, and saves the pass over out that a product of its own would take.
// Rows and columns past the end read the last ones instead, as in matmul_operands. k and the rank are multiples of 4.

@group(0) @binding(5) var<storage, read> u: array<vec4f>; // [m, rank]
@group(0) @binding(6) var<storage, read> v: array<vec4f>; // [n, rank], or where B_BY_K [rank, n]

// Steps that follow those of k.
fn more_steps() -> u32 {
    return params.rank;
}

fn a_block_or_zero(i: u32, k: u32) -> mat4x4f {
    if k < params.k {
        return a_block(i, k);
    }
    let step = k - params.k;
    if step >= params.rank {
        return mat4x4f();
    }
    return params.low_rank_scale * transpose(mat4x4f(u_steps(i, step), u_steps(i + 1u, step), u_steps(i + 2u, step), u_steps(i + 3u, step)));
}

fn b_block_or_zero(j: u32, k: u32) -> mat4x4f {
    if k < params.k {
        return b_block(j, k);
    }
    let step = k - params.k;
    if step >= params.rank {
        return mat4x4f();
    }
    if !B_BY_K {
        return transpose(mat4x4f(v_steps(j, step), v_steps(j + 1u, step), v_steps(j + 2u, step), v_steps(j + 3u, step)));
    }
    let at = (vec4u(step, step + 1u, step + 2u, step + 3u) * params.n + min(j, params.n - 4u)) / 4u;
    return mat4x4f(v[at.x], v[at.y], v[at.z], v[at.w]);
}

// u[i, k .. k + 4]
fn u_steps(i: u32, k: u32) -> vec4f {
    return u[(min(i, params.m - 1u) * params.rank + k) / 4u];
}

// v[j, k .. k + 4]
fn v_steps(j: u32, k: u32) -> vec4f {
    return v[(params.v_start + min(j, params.n - 1u) * params.rank + k) / 4u];
}
