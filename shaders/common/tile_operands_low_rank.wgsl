// uses: pieces
// tile_operands with the low-rank term of matmul_low_rank, low_rank_scale * u op(v): its steps follow those of k, as
// if u stood beside a, and v beside b. It costs a tile at the most, and saves the pass over out that a product of its own would take.
// Rows and columns past the end read the last ones instead, as in pieces. k and the rank are multiples of 4.

@group(0) @binding(5) var<storage, read> u: array<vec4f>; // [m, rank]
@group(0) @binding(6) var<storage, read> v: array<vec4f>; // [n, rank], or where B_BY_K [rank, n]

// Steps that follow those of k.
fn more_steps() -> u32 {
    return params.rank;
}

// Steps k .. k + 4 of a, and then of u.
fn a_rest(i: u32, k: u32) -> vec4f {
    if k < steps_end() {
        return a_four(i, k);
    }
    let step = min(k - steps_end(), params.rank - 4u);
    return params.low_rank_scale * u[(min(i, rows_end() - 1u) * params.rank + step) / 4u];
}

fn v_four(j: u32, step: u32) -> vec4f {
    if B_BY_K {
        return v[(min(step, params.rank - 1u) * params.n + min(j, params.n - 4u)) / 4u];
    }
    return v[(params.v_start + min(j, params.n - 1u) * params.rank + min(step, params.rank - 4u)) / 4u];
}

fn b_rest(j: u32, k: u32) -> vec4f {
    if k < steps_end() {
        return b_four(j, k);
    }
    return v_four(j, k - steps_end());
}
