// A head with a scale and an offset in bf16, see src/storage/affine.rs.

fn scale_and_offset(head: u32) -> vec2f {
    return bitcast<vec2f>(vec2u(head << 16u, head & 0xffff0000u));
}
