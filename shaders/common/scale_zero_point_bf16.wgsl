// A head with a scale in bf16 and a zero point, see src/storage/affine.rs.

// s and -s z, both exact.
fn scale_and_offset(head: u32) -> vec2f {
    let s = bitcast<f32>(head << 16u);
    return vec2f(s, -s * f32(head >> 16u));
}
