// uses: {row_sum}, {values}
// rms_norm_backward: d_x = rstd * (g - x^ * mean(g * x^)) + addend, with g = d_y * w, x^ = x * rstd, and w as in
// rms_norm. One workgroup a row of `columns`, which is a head where each is normalised by itself.
// Traffic: reads x, d_y, w twice (the second time from cache) and addend once, writes d_x. Accumulates in f32, in a fixed order.

struct Params { rows: u32, columns: u32, eps: f32, has_weight: u32, weight_offset: f32, has_addend: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Stored>;        // [rows, columns]
@group(0) @binding(2) var<storage, read> weight: array<Stored>;   // [columns], read only if has_weight
@group(0) @binding(3) var<storage, read> d_y: array<Stored>;      // [rows, columns]
@group(0) @binding(4) var<storage, read> addend: array<Stored>;   // [rows, columns], read only if has_addend
@group(0) @binding(5) var<storage, read_write> d_x: array<Values>; // [rows, columns]

override LANES: u32 = 64u; // invocations a row

fn factor(c: u32) -> Values {
    if params.has_weight == 0u {
        return Values(1.0);
    }
    return params.weight_offset + values_of(weight[c]);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * groups.x + group.x;
    let columns = params.columns / WIDTH;
    let start = min(row, params.rows - 1u) * columns;
    var squares = 0.0;
    var products = 0.0; // sum of g * x
    for (var c = lane; c < columns; c += LANES) {
        let value = values_of(x[start + c]);
        squares += inner(value, value);
        products += inner(values_of(d_y[start + c]) * factor(c), value);
    }
    let length = f32(params.columns);
    let rstd = inverseSqrt(row_sum(lane, squares) / length + params.eps);
    let mean = row_sum(lane, products) * rstd / length;
    if row >= params.rows {
        return;
    }
    for (var c = lane; c < columns; c += LANES) {
        var d = rstd * (values_of(d_y[start + c]) * factor(c) - values_of(x[start + c]) * rstd * mean);
        if params.has_addend != 0u {
            d += values_of(addend[start + c]);
        }
        d_x[start + c] = d;
    }
}
