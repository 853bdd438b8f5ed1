// A head with a scale in f16 and a zero point, see src/storage/affine.rs.

// s and -s z, both exact.
fn scale_and_offset(head: u32) -> vec2f {
    let s = unpack2x16float(head & 0xffffu).x;
    return vec2f(s, -s * f32(head >> 16u));
}
