// uses: {product}, {out=one_out}
// What the matmul kernels with vec4 loads share: parameters, and the way a result leaves.
// Starts and row lengths are in elements and must be multiples of 4.

struct Params {
    m: u32, n: u32, k: u32, flags: u32,
    scale: f32,
    a_start: u32, a_row: u32,     // row i of a starts at element a_start + i * a_row
    b_start: u32,                 // b starts at this element; its rows follow each other
    out_start: u32, out_row: u32, // row i of out (and of addend) starts at element out_start + i * out_row
    rank: u32, low_rank_scale: f32, v_start: u32, // of the low-rank term, where there is one; v starts at element v_start
    first_expert: u32, end_expert: u32, // where there is a product for each expert: see expert_product
    first_tile: u32,              // of rows; those before it are another dispatch's
    k_part: u32,                  // where k is split over workgroups: see split_product
}

const HAS_ADDEND = 1u;
const ACCUMULATE = 2u; // add to what out holds
const ALONG_ROWS = 4u; // see expert_product

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> addend: array<vec4f>;

// out[i, j .. j + 4] = scale * sums (+ addend) (+ out), if that is inside the matrix.
fn store4(i: u32, j: u32, sums: vec4f) {
    if i < rows_end() && j < params.n {
        let at = (out_first() + i * params.out_row + j) / 4u;
        var value = params.scale * sums;
        if (params.flags & HAS_ADDEND) != 0u {
            value += addend[at];
        }
        if (params.flags & ACCUMULATE) != 0u {
            value += out4(at);
        }
        put_out4(at, value);
    }
}

fn columns_of_a() -> u32 {
    return params.a_row;
}
