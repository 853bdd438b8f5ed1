// Tiles of attention's kernels. A workgroup of LANES x 8 invocations has 32 rows of its own and meets the others in blocks of 4 SCORE_LANES.
// Invocation (x, y) has own rows y, y + 8, y + 16, y + 24. Of their scores with the others it has those of rows x, x + SCORE_LANES, ...: a 4 x 4
// matrix, a column for each own row. Of sums over the others it has columns x and x + LANES (of 4) of the head, a matrix each. So it holds the
// same few matrices whatever the size of a head. Rows lie interleaved, and padded in workgroup memory, so that neighbours meet no bank twice.

override HEAD_VEC4: u32 = 16u;                   // columns of a head / 4
override LANES: u32 = 8u;                        // at least 8, and at least HEAD_VEC4 / 2
override SCORE_LANES: u32 = min(LANES, 16u);     // those that have scores: 16 at the most, for workgroup memory
override STAGED: u32 = 32u * SCORE_LANES + 64u;  // room for 32 + 4 SCORE_LANES rows of CHUNK + 1, and for 32 rows of SCORE_LANES + 1
const CHUNK = 4u;                                // vec4s of each row that are in workgroup memory at a time
const UNSEEN = -1e30;                            // score of what is not seen

var<workgroup> staged: array<vec4f, STAGED>;

// Where vec4 `column` of row `row` of the chunk rests: the 32 own rows, then the others.
fn chunk_at(row: u32, column: u32) -> u32 {
    return row * (CHUNK + 1u) + column;
}

// Puts vec4s `c` .. `c + CHUNK` of the tile's rows into workgroup memory. The shader has the rows: `own_vec4` and `other_vec4`, those whose
// products are scores, or those of the second products that a gradient needs. Between two barriers.
fn stage(tile: Tile, lane: vec2u, c: u32, second: bool) {
    for (var i = lane.y * LANES + lane.x; i < (32u + 4u * SCORE_LANES) * CHUNK; i += 8u * LANES) {
        let which = i / CHUNK;
        let column = c + i % CHUNK;
        var value = vec4f();
        if column < HEAD_VEC4 && which < 32u {
            value = own_vec4(tile, which, column, second);
        } else if column < HEAD_VEC4 {
            value = other_vec4(tile, which - 32u, column, second);
        }
        staged[chunk_at(which, i % CHUNK)] = value;
    }
}

// Where the weights of own row `row` with the others of lane `x` rest.
fn weight_at(row: u32, x: u32) -> u32 {
    return row * (SCORE_LANES + 1u) + x;
}

// sums + a b, each element by four fma.
fn add_product(sums: mat4x4f, a: mat4x4f, b: mat4x4f) -> mat4x4f {
    return mat4x4f(add_column(sums[0], a, b[0]), add_column(sums[1], a, b[1]), add_column(sums[2], a, b[2]), add_column(sums[3], a, b[3]));
}

fn add_column(sum: vec4f, a: mat4x4f, b: vec4f) -> vec4f {
    return fma(a[3], vec4f(b.w), fma(a[2], vec4f(b.z), fma(a[1], vec4f(b.y), fma(a[0], vec4f(b.x), sum))));
}

// Adds to the scores of the invocation what the `columns` vec4s in workgroup memory give. Own rows are loaded one after the other, as they are used:
// all at once, they are too much for Intel's registers.
fn add_scores(scores: mat4x4f, lane: vec2u, columns: u32) -> mat4x4f {
    var sums = scores;
    for (var c = 0u; c < columns; c++) {
        let others = mat4x4f(
            staged[chunk_at(32u + lane.x, c)],
            staged[chunk_at(32u + lane.x + SCORE_LANES, c)],
            staged[chunk_at(32u + lane.x + 2u * SCORE_LANES, c)],
            staged[chunk_at(32u + lane.x + 3u * SCORE_LANES, c)],
        );
        let by_column = transpose(others);
        sums[0] = add_column(sums[0], by_column, staged[chunk_at(lane.y, c)]);
        sums[1] = add_column(sums[1], by_column, staged[chunk_at(lane.y + 8u, c)]);
        sums[2] = add_column(sums[2], by_column, staged[chunk_at(lane.y + 16u, c)]);
        sums[3] = add_column(sums[3], by_column, staged[chunk_at(lane.y + 24u, c)]);
    }
    return sums;
}

// Hands weights to the workgroup; those of lanes without scores are none.
fn store_weights(weights: mat4x4f, lane: vec2u) {
    if lane.x < SCORE_LANES {
        staged[weight_at(lane.y, lane.x)] = weights[0];
        staged[weight_at(lane.y + 8u, lane.x)] = weights[1];
        staged[weight_at(lane.y + 16u, lane.x)] = weights[2];
        staged[weight_at(lane.y + 24u, lane.x)] = weights[3];
    }
}

// The weights of the invocation's own rows with the others of lane `x`.
fn weights_of(x: u32, y: u32) -> mat4x4f {
    return mat4x4f(staged[weight_at(y, x)], staged[weight_at(y + 8u, x)], staged[weight_at(y + 16u, x)], staged[weight_at(y + 24u, x)]);
}
