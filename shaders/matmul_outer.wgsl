// uses: matmul_operands, eight_rows
// matmul for the gradients of adapters on GPUs, where out has few columns (or rows: SWAPPED) and k, the tokens, is long: TN only.
// Algorithm: a workgroup computes 32 rows x 8 columns of out. Its invocations are LANES across the rows, 4 of them each, and SLICES along k: each
// adds the outer products of every SLICES-th step, and the sums of all slices are added in workgroup memory, half of them to the other half.
// Why it is fast: a tile of so few outputs has work for one subgroup; this one has it for many.
// Dispatch: x = blocks of rows, y = blocks of columns, 32 x 8 or 8 x 32. Traffic: the wide operand is read once for 8 columns of the narrow one.
// Accumulates in f32, the slices in a fixed tree.

override SWAPPED: bool = false; // rows are few: 8 rows x 32 columns
const LANES = 8u;
const SLICES = 32u;

var<workgroup> partial: array<vec4f, 4 * LANES * SLICES>; // [column][invocation], of half of the slices

@compute @workgroup_size(LANES, SLICES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) id: vec3u) {
    let end = begin(group, 8u).steps;
    let lane = id.x;
    let slice = id.y;
    let wide = select(group.x, group.y, SWAPPED) * 4u * LANES + lane * 4u;
    let narrow = select(group.y, group.x, SWAPPED) * 8u;
    let wide_at = min(wide, select(params.m, params.n, SWAPPED) - 4u);
    let most = select(params.n, params.m, SWAPPED) - 4u;
    var sums = EightRows();
    for (var k = slice; k < end; k += SLICES) {
        var own: vec4f;
        var low: vec4f;
        var high: vec4f;
        let a_at = params.a_start + k * params.a_row;
        let b_at = params.b_start + k * params.n;
        if SWAPPED {
            own = load_weight4((b_at + wide_at) / 4u);
            low = load_a4((a_at + min(narrow, most)) / 4u);
            high = load_a4((a_at + min(narrow + 4u, most)) / 4u);
        } else {
            own = load_a4((a_at + wide_at) / 4u);
            low = load_weight4((b_at + min(narrow, most)) / 4u);
            high = load_weight4((b_at + min(narrow + 4u, most)) / 4u);
        }
        sums = EightRows(
            fma(vec4f(low.x), own, sums[0]),
            fma(vec4f(low.y), own, sums[1]),
            fma(vec4f(low.z), own, sums[2]),
            fma(vec4f(low.w), own, sums[3]),
            fma(vec4f(high.x), own, sums[4]),
            fma(vec4f(high.y), own, sums[5]),
            fma(vec4f(high.z), own, sums[6]),
            fma(vec4f(high.w), own, sums[7]),
        );
    }
    for (var half = SLICES / 2u; half > 0u; half /= 2u) {
        let at = slice % half * LANES + lane;
        let step = LANES * half;
        if slice >= half && slice < 2u * half {
            for (var c = 0u; c < 8u; c++) {
                partial[c * step + at] = sums[c];
            }
        }
        workgroupBarrier();
        if slice < half {
            for (var c = 0u; c < 8u; c++) {
                sums[c] += partial[c * step + at];
            }
        }
        workgroupBarrier();
    }
    if slice == 0u && SWAPPED && wide < params.n {
        store_rows(narrow, min(narrow + 8u, params.m), wide, sums);
    } else if slice == 0u && !SWAPPED && wide < params.m {
        store_columns(wide, narrow, min(narrow + 8u, params.n), sums);
    }
}
