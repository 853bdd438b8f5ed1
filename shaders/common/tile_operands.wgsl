// uses: pieces
// What matmul_tiled copies near the end of k: fours of a and b, zeros of a where steps lie past the end.

// Steps that follow those of k.
fn more_steps() -> u32 {
    return 0u;
}

fn a_rest(i: u32, k: u32) -> vec4f {
    return a_four(i, k);
}

fn b_rest(j: u32, k: u32) -> vec4f {
    return b_four(j, k);
}
