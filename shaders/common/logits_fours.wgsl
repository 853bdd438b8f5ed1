// uses: {values}
// Rows of logits whose length is a multiple of 4, read and written by fours; of the columns that count the last four may be fewer. Its
// counterpart is logits_ones.

@group(0) @binding(3) var<storage, read_write> logits: array<Stored>; // [rows, stride], this chunk; the first columns count

// Columns 4 * four .. 4 * four + 4 of a row.
fn load_logits(row: u32, four: u32) -> vec4f {
    return values_of(logits[row * (params.stride / 4u) + four]);
}

// Columns that do not count stay as they are.
fn store_logits(row: u32, four: u32, values: vec4f) {
    let at = row * (params.stride / 4u) + four;
    if 4u * four + 4u <= params.columns {
        logits[at] = stored_of(values);
    } else {
        let counts = columns_of(four) < vec4u(params.columns);
        logits[at] = stored_of(select(values_of(logits[at]), values, counts));
    }
}
