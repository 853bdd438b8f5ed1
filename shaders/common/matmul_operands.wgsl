// uses: matmul_io, row_sums, {activations}, {weights}
// Reads of matmul's operands in the three layouts, four steps of k at a time. Needs load_a4, load_a, load_weight4, load_weight and Params.
//
// | layout | a | b | |
// |---|---|---|---|
// | NT | [m, k] | [n, k] | both rest with k along their rows |
// | NN | [m, k] | [k, n] | B_BY_K: a row of b is one step of k |
// | TN | [k, m] | [k, n] | A_BY_K and B_BY_K |
//
// Indices past the end in m, n and k read the last element instead, so that no read leaves its matrix; past the end of k, a counts as zero.
// Where k lies along a row, k is a multiple of 4; where m or n does, they are.

override A_BY_K: bool = false;
override B_BY_K: bool = false;

// a[i, k .. k + 4]
fn a_steps(i: u32, k: u32) -> vec4f {
    let row = min(i, rows_end() - 1u);
    if !A_BY_K {
        return load_a4((a_first() + row * params.a_row + k) / 4u);
    }
    let at = a_first() + row + steps_from(k) * params.a_row;
    return steps_inside(k) * vec4f(load_a(at.x), load_a(at.y), load_a(at.z), load_a(at.w));
}

// b[j, k .. k + 4]
fn b_steps(j: u32, k: u32) -> vec4f {
    let row = min(j, params.n - 1u);
    if !B_BY_K {
        return load_weight4((b_first() + row * params.k + k) / 4u);
    }
    let at = b_first() + row + steps_from(k) * params.n;
    return vec4f(load_weight(at.x), load_weight(at.y), load_weight(at.z), load_weight(at.w));
}

// a[i .. i + 4, k .. k + 4], a column for each step of k.
fn a_block(i: u32, k: u32) -> mat4x4f {
    if !A_BY_K {
        return transpose(mat4x4f(a_steps(i, k), a_steps(i + 1u, k), a_steps(i + 2u, k), a_steps(i + 3u, k)));
    }
    let at = (a_first() + min(i, rows_end() - 4u) + steps_from(k) * params.a_row) / 4u;
    let inside = steps_inside(k);
    return mat4x4f(inside.x * load_a4(at.x), inside.y * load_a4(at.y), inside.z * load_a4(at.z), inside.w * load_a4(at.w));
}

// b[j .. j + 4, k .. k + 4], a column for each step of k.
fn b_block(j: u32, k: u32) -> mat4x4f {
    if !B_BY_K {
        return transpose(mat4x4f(b_steps(j, k), b_steps(j + 1u, k), b_steps(j + 2u, k), b_steps(j + 3u, k)));
    }
    let at = (b_first() + min(j, params.n - 4u) + steps_from(k) * params.n) / 4u;
    return mat4x4f(load_weight4(at.x), load_weight4(at.y), load_weight4(at.z), load_weight4(at.w));
}

// k .. k + 4. Only TN has a k that is no multiple of 4.
fn steps_from(k: u32) -> vec4u {
    let steps = vec4u(k, k + 1u, k + 2u, k + 3u);
    if A_BY_K {
        return min(steps, vec4u(steps_end() - 1u));
    }
    return steps;
}

// 1 for steps before the end of k, 0 after it.
fn steps_inside(k: u32) -> vec4f {
    return select(vec4f(), vec4f(1.0), vec4u(k, k + 1u, k + 2u, k + 3u) < vec4u(steps_end()));
}
