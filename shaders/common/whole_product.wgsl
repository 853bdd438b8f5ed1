// uses: begun, whole_bounds
// Where a product of matmul begins and ends if all rows are multiplied by one matrix: as Params says. Its counterpart is expert_product.
// Tiles of rows before first_tile are another dispatch's.

// To be called before anything else; `rows` is how many rows a workgroup computes.
fn begin(group: vec3u, rows: u32) -> Begun {
    return Begun((params.first_tile + group.x) * rows, 0u, params.k);
}

fn out_first() -> u32 {
    return params.out_start;
}
