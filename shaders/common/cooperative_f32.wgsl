// Operands of matmul_cooperative in f32, for devices whose matrices take no f16. Nothing is out of their range.

alias Element = f32;
const K_TILE = 16u; // steps of k in workgroup memory
const NARROW_RANGE = false;

fn elements(values: vec4f) -> vec4f {
    return values;
}

fn keep_scale(row: u32, largest: f32) {}

fn scale(row: u32) -> f32 {
    return 1.0;
}

fn inverse_scale(row: u32) -> f32 {
    return 1.0;
}
