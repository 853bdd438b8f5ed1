// uses: {weights}, {product}
// matmul, any layout and any size: out = scale * op(A) op(B) (+ addend) (+ out). The variant that the others are checked against, and
// the one that runs where sizes do not suit them.
// Algorithm: one invocation a 4 x 4 block of the output, no workgroup memory, no barriers; layouts differ only in strides.
// Traffic: A and B are read once per block of 4 rows or columns, from cache where neighbours overlap. Accumulates in f32 along k in order,
// in stretches: Mesa 22.3 silently stops a loop after 65,535 iterations, and a vocabulary can be longer than that. Two steps an iteration: four
// of quantised weights take more registers than Adreno's GPUs before X1 have.

struct Params {
    m: u32, n: u32, k: u32, flags: u32,
    scale: f32,
    a_row: u32, a_k: u32, a_start: u32,  // A's element (i, k) is a[a_start + i * a_row + k * a_k]
    b_column: u32, b_k: u32, b_start: u32, // B's element (k, j) is weight element b_start + j * b_column + k * b_k
    out_start: u32, out_row: u32,        // out's element (i, j) is out[out_start + i * out_row + j]; addend's likewise
    first_expert: u32, end_expert: u32, first_tile: u32, // where there is a product for each expert: see expert_product
}

const HAS_ADDEND = 1u;
const ACCUMULATE = 2u; // add to what out holds
const ALONG_ROWS = 4u; // see expert_product
const STRETCH = 4096u; // steps of k, an even number

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(3) var<storage, read> addend: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

fn columns_of_a() -> u32 {
    return max(params.a_row, params.a_k);
}

// sums[row][column] + A[i[row], k] * B[k, j[column]]
fn add_step(sums: mat4x4f, i: vec4u, j: vec4u, k: u32) -> mat4x4f {
    let a_at = a_first() + i * params.a_row + k * params.a_k;
    let b_at = b_first() + j * params.b_column + k * params.b_k;
    let b = vec4f(load_weight(b_at.x), load_weight(b_at.y), load_weight(b_at.z), load_weight(b_at.w));
    return sums + mat4x4f(a[a_at.x] * b, a[a_at.y] * b, a[a_at.z] * b, a[a_at.w] * b);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let blocks_n = (params.n + 3u) / 4u;
    let block = (group.y * groups.x + group.x) * 64u + lane;
    let first_i = begin(vec3u(block / blocks_n, 0u, group.z), 4u).row;
    let first_j = block % blocks_n * 4u;
    if first_i >= rows_end() {
        return;
    }
    // Rows and columns past the end repeat the last one; their results are not stored.
    let i = min(vec4u(first_i) + vec4u(0u, 1u, 2u, 3u), vec4u(rows_end() - 1u));
    let j = min(vec4u(first_j) + vec4u(0u, 1u, 2u, 3u), vec4u(params.n - 1u));
    var sums = mat4x4f();
    for (var first_k = 0u; first_k < steps_end(); first_k += STRETCH) {
        let end = min(first_k + STRETCH, steps_end());
        var k = first_k;
        for (; k + 2u <= end; k += 2u) {
            sums = add_step(sums, i, j, k);
            sums = add_step(sums, i, j, k + 1u);
        }
        for (; k < end; k++) {
            sums = add_step(sums, i, j, k);
        }
    }
    // What is stored is always the first: an index that varies would put the sums in memory.
    for (var row = first_i; row < min(first_i + 4u, rows_end()); row++) {
        var values = sums[0];
        sums = mat4x4f(sums[1], sums[2], sums[3], vec4f());
        for (var column = first_j; column < min(first_j + 4u, params.n); column++) {
            let at = out_first() + row * params.out_row + column;
            var value = params.scale * values.x;
            values = values.yzwx;
            if (params.flags & HAS_ADDEND) != 0u {
                value += addend[at];
            }
            if (params.flags & ACCUMULATE) != 0u {
                value += out[at];
            }
            out[at] = value;
        }
    }
}
