// uses: eight_rows, matmul_operands, spread_rows, {low_rank}, {table}
// matmul_subgroup8 for NT with block-quantised weights whose codes have 6 or 8 bits: out = scale * a b^T (+ addend) (+ out).
// Algorithm: the tile, the lanes and the order of the sums are those of matmul_subgroup8. Along k it goes by blocks of 32: a lane loads
// what a block shares once for each of its 4 columns, and codes and a 8 steps at a time.
// Why it is fast: loads set the pace there, and codes need few of them: for 32 steps of k, 4 scales and 16 pairs of Q8_0 instead of 64 pairs
// in f32. What codes cost beyond that, bits into numbers, is paid once for all rows of the tile: hence 32 of them, where there are as many.
// Whole blocks of 8 columns, as matmul_subgroup8_blocks_whole has them, would take 64 registers and more, which do not fit.
// The first rows of a are loaded before the codes: the driver then keeps more in registers.
// Dispatch and traffic: as matmul_subgroup8, but b is read packed. k is a multiple of 32.

override SPREAD_ROWS: u32 = 16u; // 8, 16 or 32

// a[i, k .. k + 8]
fn a_eight(i: u32, k: u32) -> Eight {
    return load_a8((a_first() + min(i, rows_end() - 1u) * params.a_row + k) / 8u);
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    prepare(lane);
    let begun = begin(group, SPREAD_ROWS);
    let first = begun.row;
    let own = group.y * 32u + lane * 4u;
    let rows = min(vec4u(own) + vec4u(0u, 1u, 2u, 3u), vec4u(params.n - 1u)) * (params.k / 32u) + b_first() / 32u;
    // Eight rows each.
    var rows0: EightRows;
    var rows1: EightRows;
    var rows2: EightRows;
    var rows3: EightRows;
    for (var block = 0u; block < begun.steps / 32u; block++) {
        let at = rows + block;
        let head = array<Head, 4>(load_head(at.x), load_head(at.y), load_head(at.z), load_head(at.w));
        for (var eight = 0u; eight < 4u; eight++) {
            let k = 32u * block + 8u * eight;
            let a0 = a_eight(first + lane, k);
            let codes = array<Codes8, 4>(load_codes8(at.x, eight), load_codes8(at.y, eight), load_codes8(at.z, eight), load_codes8(at.w, eight));
            let near = transpose(mat4x4f(
                first_values(head[0], codes[0], eight),
                first_values(head[1], codes[1], eight),
                first_values(head[2], codes[2], eight),
                first_values(head[3], codes[3], eight),
            ));
            let far = transpose(mat4x4f(
                last_values(head[0], codes[0], eight),
                last_values(head[1], codes[1], eight),
                last_values(head[2], codes[2], eight),
                last_values(head[3], codes[3], eight),
            ));
            rows0 = add_rows(add_rows(rows0, a0.near, near), a0.far, far);
            if SPREAD_ROWS >= 16u {
                let a1 = a_eight(first + 8u + lane, k);
                rows1 = add_rows(add_rows(rows1, a1.near, near), a1.far, far);
            }
            if SPREAD_ROWS >= 32u {
                let a2 = a_eight(first + 16u + lane, k);
                rows2 = add_rows(add_rows(rows2, a2.near, near), a2.far, far);
                let a3 = a_eight(first + 24u + lane, k);
                rows3 = add_rows(add_rows(rows3, a3.near, near), a3.far, far);
            }
        }
    }
    for (var k = 0u; k < low_rank_steps(); k += 4u) {
        let block = v_block(own, k);
        rows0 = add_rows(rows0, u_steps(first + lane, k), block);
        if SPREAD_ROWS >= 16u {
            rows1 = add_rows(rows1, u_steps(first + 8u + lane, k), block);
        }
        if SPREAD_ROWS >= 32u {
            rows2 = add_rows(rows2, u_steps(first + 16u + lane, k), block);
            rows3 = add_rows(rows3, u_steps(first + 24u + lane, k), block);
        }
    }
    store_rows(first, min(first + 8u, rows_end()), own, rows0);
    if SPREAD_ROWS >= 16u {
        store_rows(first + 8u, min(first + 16u, rows_end()), own, rows1);
    }
    if SPREAD_ROWS >= 32u {
        store_rows(first + 16u, min(first + 24u, rows_end()), own, rows2);
        store_rows(first + 24u, min(first + 32u, rows_end()), own, rows3);
    }
}
