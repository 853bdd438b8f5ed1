// uses: eight
// Pairs of fours of a weight that rests by elements; of one in blocks, blocks.wgsl loads them.

// Elements 4 * near .. 4 * near + 4 and 4 * far .. 4 * far + 4.
fn load_weight8(near: u32, far: u32) -> Eight {
    return Eight(load_weight4(near), load_weight4(far));
}
