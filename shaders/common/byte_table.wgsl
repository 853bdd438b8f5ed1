// A table of 16 numbers of 8 bits, in the four words of BYTES.

// The entries that four codes number, one a byte.
fn entries(codes: u32) -> vec4f {
    let at = unpack4xU8(codes);
    let odd = (at & vec4u(4u)) != vec4u();
    let low = select(vec4u(BYTES.x), vec4u(BYTES.y), odd);
    let high = select(vec4u(BYTES.z), vec4u(BYTES.w), odd);
    let words = select(low, high, at >= vec4u(8u));
    return vec4f(bitcast<vec4i>(words << (vec4u(24u) - ((at & vec4u(3u)) << vec4u(3u)))) >> vec4u(24u));
}
