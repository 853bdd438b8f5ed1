// uses: scale_of_two, codes_4bit
// NF4, see src/storage/nf4.rs: absmax table[code]; two blocks share an absmax.

const GROUP_WORDS = 36u;

// The entries of the table that four codes number, one a byte. By a tree of choices: an index that varies is a load from memory on many
// drivers.
fn entries(codes: u32) -> vec4f {
    let at = unpack4xU8(codes);
    let one = (at & vec4u(1u)) != vec4u();
    let two = (at & vec4u(2u)) != vec4u();
    let four = (at & vec4u(4u)) != vec4u();
    let a = select(vec4f(-1.0), vec4f(-0.6961928009986877), one);
    let b = select(vec4f(-0.5250730514526367), vec4f(-0.39491748809814453), one);
    let c = select(vec4f(-0.28444138169288635), vec4f(-0.18477343022823334), one);
    let d = select(vec4f(-0.09105003625154495), vec4f(0.0), one);
    let e = select(vec4f(0.07958029955625534), vec4f(0.16093020141124725), one);
    let f = select(vec4f(0.24611230194568634), vec4f(0.33791524171829224), one);
    let g = select(vec4f(0.44070982933044434), vec4f(0.5626170039176941), one);
    let h = select(vec4f(0.7229568362236023), vec4f(1.0), one);
    let low = select(select(a, b, two), select(c, d, two), four);
    let high = select(select(e, f, two), select(g, h, two), four);
    return select(low, high, at >= vec4u(8u));
}

fn four_values(absmax: Head, codes: u32, four: u32) -> vec4f {
    return absmax * entries(four_codes(codes, four));
}
