// uses: enable_f16
// Operands of matmul_cooperative in f16. Products of two of them are exact in f32, in which they are summed.
// Range: a magnitude above 65504 counts as 65504, since f16 has no more, and one below 6e-8 as 0. The hidden states of a forward pass and weights
// keep to that by far; gradients do not, so their rows are scaled: the largest magnitude comes into [2^14, 2^15), and what is more than
// 2^-28 of it keeps all its bits. What is infinite or undefined stays so, to be seen in the loss.

alias Element = f16;
const K_TILE = 32u; // steps of k in workgroup memory
const NARROW_RANGE = true;
const HEADROOM = 14u;       // a scaled row's largest magnitude is in [2^14, 2^15)
const LEAST_EXPONENT = 32u; // of f32, biased; below it (2^-95) scales end, and so does what an f32 product can hold

var<workgroup> scales: array<f32, TILE>; // a row of a is its scale times what the tile holds, if rows are scaled

fn elements(values: vec4f) -> vec4<f16> {
    let finite = (bitcast<vec4u>(values) & vec4u(0x7f800000u)) != vec4u(0x7f800000u);
    return vec4<f16>(select(values, clamp(values, vec4f(-65504.0), vec4f(65504.0)), finite));
}

// Chooses a power of two for a row whose largest magnitude this is.
fn keep_scale(row: u32, largest: f32) {
    scales[row] = bitcast<f32>((max(bitcast<u32>(largest) >> 23u, LEAST_EXPONENT) - HEADROOM) << 23u);
}

fn scale(row: u32) -> f32 {
    return scales[row];
}

// 1 / scale, exactly.
fn inverse_scale(row: u32) -> f32 {
    return bitcast<f32>((254u << 23u) - bitcast<u32>(scales[row]));
}
