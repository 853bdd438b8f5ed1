// uses: begun
// Where a product of matmul_experts begins and ends: each expert has rows of its own, that lie together, and a matrix of its own. Its counterpart
// is whole_product.
//
// NT and NN: tiles of rows are numbered through the experts first_expert .. end_expert, each of which has as many as its rows fill; a workgroup
// goes through the experts until it meets its own. One whose number is beyond all tiles has no rows and no steps, and ends at once.
// TN (ALONG_ROWS): k runs over an expert's rows, and group.z is the expert. An expert without rows gets zeros.

@group(0) @binding(5) var<storage, read> offsets: array<u32>; // [experts + 1]: the rows of expert e are offsets[e] .. offsets[e + 1]

var<private> own_rows_end: u32;
var<private> own_steps_end: u32;
var<private> own_a_first: u32;
var<private> own_b_first: u32;
var<private> own_out_first: u32;

// To be called before anything else; `rows` is how many rows a workgroup computes. The first row is counted within the expert.
fn begin(group: vec3u, rows: u32) -> Begun {
    if (params.flags & ALONG_ROWS) != 0u {
        let first = offsets[group.z];
        let steps = offsets[group.z + 1u] - first;
        own_rows_end = params.m;
        own_steps_end = steps;
        own_a_first = params.a_start + first * columns_of_a();
        own_b_first = params.b_start + first * params.n;
        own_out_first = params.out_start + group.z * params.m * params.n;
        return Begun(group.x * rows, 0u, steps);
    }
    var tile = params.first_tile + group.x;
    for (var expert = params.first_expert; expert < params.end_expert; expert++) {
        let first = offsets[expert];
        let count = offsets[expert + 1u] - first;
        let tiles = (count + rows - 1u) / rows;
        if tile < tiles {
            own_rows_end = count;
            own_steps_end = params.k;
            own_a_first = params.a_start + first * columns_of_a();
            own_b_first = params.b_start + (expert - params.first_expert) * params.n * params.k;
            own_out_first = params.out_start + first * params.out_row;
            return Begun(tile * rows, 0u, params.k);
        }
        tile -= tiles;
    }
    own_rows_end = 0u;
    own_steps_end = 0u;
    return Begun();
}

fn rows_end() -> u32 {
    return own_rows_end;
}

fn steps_end() -> u32 {
    return own_steps_end;
}

fn a_first() -> u32 {
    return own_a_first;
}

fn b_first() -> u32 {
    return own_b_first;
}

fn out_first() -> u32 {
    return own_out_first;
}
