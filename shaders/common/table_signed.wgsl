// A table of 16 numbers, TABLE, whose second half is the first with the other sign, by a tree of choices: see table_tree.

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
    let size = select(select(a, b, two), select(c, d, two), four);
    return select(size, -size, at >= vec4u(8u));
}
