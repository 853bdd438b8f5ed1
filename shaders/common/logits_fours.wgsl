// Rows of logits whose length is a multiple of 4, read and written by fours; of the columns that count the last four may be fewer. Its
// counterparts are logits_ones and logits_fours_wide.

@group(0) @binding(3) var<storage, read_write> logits: array<vec4f>; // [rows, stride], this chunk; the first columns count

// Columns 4 * four .. 4 * four + 4 of a row.
fn load_logits(row: u32, four: u32) -> vec4f {
    return logits[row * (params.stride / 4u) + four];
}

// Columns that do not count stay as they are.
fn store_logits(row: u32, four: u32, values: vec4f) {
    let at = row * (params.stride / 4u) + four;
    if 4u * four + 4u <= params.columns {
        logits[at] = values;
    } else {
        let counts = 4u * four + vec4u(0u, 1u, 2u, 3u) < vec4u(params.columns);
        logits[at] = select(logits[at], values, counts);
    }
}
