// uses: pieces
// What matmul_tiled copies near the end of k: pieces of a and b, zeros of a where steps lie past the end.

// Steps that follow those of k.
fn more_steps() -> u32 {
    return 0u;
}

fn a_rest(i: u32, k: u32) -> Eight {
    let ahead = ahead_in_piece(A_BY_K);
    return Eight(a_four(i, k), a_four(i + ahead.x, k + ahead.y));
}

fn b_rest(j: u32, k: u32) -> Eight {
    return b_eight(j, k);
}
