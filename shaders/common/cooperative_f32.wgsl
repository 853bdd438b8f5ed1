// Operands of matmul_cooperative in f32, for devices whose matrices take no f16.

alias Element = f32;
const K_TILE = 16u; // steps of k in workgroup memory

fn elements(values: vec4f) -> vec4f {
    return values;
}
