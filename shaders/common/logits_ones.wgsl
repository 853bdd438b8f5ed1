// Rows of logits whose length is no multiple of 4, read and written one by one. Its counterpart is logits_fours.

@group(0) @binding(3) var<storage, read_write> logits: array<f32>; // [rows, stride], this chunk; the first columns count

// Columns 4 * four .. 4 * four + 4 of a row; past its columns the last one instead.
fn load_logits(row: u32, four: u32) -> vec4f {
    let at = row * params.stride + min(columns_of(four), vec4u(params.columns - 1u));
    return vec4f(logits[at.x], logits[at.y], logits[at.z], logits[at.w]);
}

fn store_logits(row: u32, four: u32, values: vec4f) {
    let first = row * params.stride + 4u * four;
    var rest = values;
    for (var c = 0u; c < min(4u, params.columns - 4u * four); c++) {
        logits[first + c] = rest.x;
        rest = rest.yzwx;
    }
}
