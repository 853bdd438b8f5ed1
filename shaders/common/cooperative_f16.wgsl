// uses: enable_f16
// Operands of matmul_cooperative in f16. Products of two of them are exact in f32, in which they are summed.
// Range: a magnitude above 65504 counts as 65504, since f16 has no more, and one below 6e-8 as 0. The hidden states of a forward pass keep
// to that by far; gradients do not, so no gradient is computed by this kernel. What is infinite or undefined stays so, to be seen in the
// loss.

alias Element = f16;
const K_TILE = 32u; // steps of k in workgroup memory

fn elements(values: vec4f) -> vec4<f16> {
    let finite = (bitcast<vec4u>(values) & vec4u(0x7f800000u)) != vec4u(0x7f800000u);
    return vec4<f16>(select(values, clamp(values, vec4f(-65504.0), vec4f(65504.0)), finite));
}
