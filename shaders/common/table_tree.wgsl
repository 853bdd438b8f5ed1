// A table of 16 numbers, TABLE, by a tree of choices: an index that varies is a load from memory on many drivers.

// The entries that four codes number, one a byte.
fn entries(codes: u32) -> vec4f {
    let at = unpack4xU8(codes);
    let one = (at & vec4u(1u)) != vec4u();
    let two = (at & vec4u(2u)) != vec4u();
    let four = (at & vec4u(4u)) != vec4u();
    let a = select(vec4f(TABLE[0]), vec4f(TABLE[1]), one);
    let b = select(vec4f(TABLE[2]), vec4f(TABLE[3]), one);
    let c = select(vec4f(TABLE[4]), vec4f(TABLE[5]), one);
    let d = select(vec4f(TABLE[6]), vec4f(TABLE[7]), one);
    let e = select(vec4f(TABLE[8]), vec4f(TABLE[9]), one);
    let f = select(vec4f(TABLE[10]), vec4f(TABLE[11]), one);
    let g = select(vec4f(TABLE[12]), vec4f(TABLE[13]), one);
    let h = select(vec4f(TABLE[14]), vec4f(TABLE[15]), one);
    let low = select(select(a, b, two), select(c, d, two), four);
    let high = select(select(e, f, two), select(g, h, two), four);
    return select(low, high, at >= vec4u(8u));
}
