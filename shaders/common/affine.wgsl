// Values of codes, one a byte: d code + m.

fn affine(d: f32, m: f32, codes: u32) -> vec4f {
    return d * vec4f(unpack4xU8(codes)) + m;
}

// Bit `four` of each byte of a block's plane of single bits, as bit `to` of the byte.
fn high_bit(plane: u32, four: u32, to: u32) -> u32 {
    return ((plane >> four) & 0x01010101u) << to;
}
