// uses: spread_rows, {low_rank}
// matmul_subgroup8 for NT with block-quantised weights: out = scale * a b^T (+ addend) (+ out).
// Algorithm: the tile, the lanes and the order of the sums are those of matmul_subgroup8. Along k it goes by blocks of 32: a lane loads
// what a block shares once for each of its 4 columns, and codes and a 8 steps at a time.
// Why it is fast: loads set the pace there, and codes need few of them: for 32 steps of k, 20 words of Q4_1 instead of 64 pairs in f32.
// Dispatch and traffic: as matmul_subgroup8, but b is read packed. k is a multiple of 32.

override SPREAD_ROWS: u32 = 16u; // 8 or 16

// a[i, k .. k + 8]
fn a_eight(i: u32, k: u32) -> Eight {
    return load_a8((params.a_start + min(i, params.m - 1u) * params.a_row + k) / 8u);
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let first = group.x * SPREAD_ROWS;
    let own = group.y * 32u + lane * 4u;
    let rows = min(vec4u(own) + vec4u(0u, 1u, 2u, 3u), vec4u(params.n - 1u)) * (params.k / 32u) + params.b_start / 32u;
    var low: EightRows;
    var high: EightRows;
    for (var block = 0u; block < params.k / 32u; block++) {
        let at = rows + block;
        let head = array<Head, 4>(load_head(at.x), load_head(at.y), load_head(at.z), load_head(at.w));
        for (var eight = 0u; eight < 4u; eight++) {
            let k = 32u * block + 8u * eight;
            let spread = a_eight(first + lane, k);
            var next: Eight;
            if SPREAD_ROWS == 16u {
                next = a_eight(first + 8u + lane, k);
            }
            let codes = array<Codes8, 4>(load_codes8(at.x, eight), load_codes8(at.y, eight), load_codes8(at.z, eight), load_codes8(at.w, eight));
            let near = transpose(mat4x4f(
                first_values(head[0], codes[0], eight),
                first_values(head[1], codes[1], eight),
                first_values(head[2], codes[2], eight),
                first_values(head[3], codes[3], eight),
            ));
            low = add_rows(low, spread.near, near);
            if SPREAD_ROWS == 16u {
                high = add_rows(high, next.near, near);
            }
            let far = transpose(mat4x4f(
                last_values(head[0], codes[0], eight),
                last_values(head[1], codes[1], eight),
                last_values(head[2], codes[2], eight),
                last_values(head[3], codes[3], eight),
            ));
            low = add_rows(low, spread.far, far);
            if SPREAD_ROWS == 16u {
                high = add_rows(high, next.far, far);
            }
        }
    }
    for (var k = 0u; k < low_rank_steps(); k += 4u) {
        let block = v_block(own, k);
        low = add_rows(low, u_steps(first + lane, k), block);
        if SPREAD_ROWS == 16u {
            high = add_rows(high, u_steps(first + 8u + lane, k), block);
        }
    }
    store_rows(first, min(first + 8u, params.m), own, low);
    if SPREAD_ROWS == 16u {
        store_rows(first + 8u, min(first + 16u, params.m), own, high);
    }
}
