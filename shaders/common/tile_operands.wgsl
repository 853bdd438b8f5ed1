// uses: matmul_operands
// What matmul_tiled copies into its tiles: blocks of a and b, zeros where their steps lie past the end of k.

// Steps that follow those of k.
fn more_steps() -> u32 {
    return 0u;
}

fn a_block_or_zero(i: u32, k: u32) -> mat4x4f {
    if k >= steps_end() {
        return mat4x4f();
    }
    return a_block(i, k);
}

fn b_block_or_zero(j: u32, k: u32) -> mat4x4f {
    if k >= steps_end() {
        return mat4x4f();
    }
    return b_block(j, k);
}
