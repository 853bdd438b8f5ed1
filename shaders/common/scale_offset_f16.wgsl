// A head with a scale and an offset in f16, see src/storage/affine.rs.

fn scale_and_offset(head: u32) -> vec2f {
    return unpack2x16float(head);
}
