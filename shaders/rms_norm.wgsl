// uses: {row_sum}, {values}
// rms_norm: y = x * rstd * w, rstd = (mean(x^2) + eps)^(-1/2), w = weight_offset + weight, or 1. One workgroup a row of `columns`, which
// is a head where each is normalised by itself.
// Traffic: reads x twice (the second time from cache) and w, writes y. Accumulates in f32, in a fixed order.

struct Params { rows: u32, columns: u32, eps: f32, has_weight: u32, weight_offset: f32, has_addend: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Stored>;      // [rows, columns]
@group(0) @binding(2) var<storage, read> weight: array<Stored>; // [columns], read only if has_weight
@group(0) @binding(3) var<storage, read_write> y: array<Values>; // [rows, columns]

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
    for (var c = lane; c < columns; c += LANES) {
        let value = values_of(x[start + c]);
        squares += inner(value, value);
    }
    let rstd = inverseSqrt(row_sum(lane, squares) / f32(params.columns) + params.eps);
    if row >= params.rows {
        return;
    }
    for (var c = lane; c < columns; c += LANES) {
        y[start + c] = values_of(x[start + c]) * rstd * factor(c);
    }
}
