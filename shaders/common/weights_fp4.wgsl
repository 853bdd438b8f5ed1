// uses: scale_of_two, codes_4bit
// FP4, see src/storage/fp4.rs: absmax table[code]; two blocks share an absmax.

const GROUP_WORDS = 36u;

// The entries of the table that four codes number, one a byte; the highest bit of a code is the sign.
fn entries(codes: u32) -> vec4f {
    let at = unpack4xU8(codes);
    let one = (at & vec4u(1u)) != vec4u();
    let two = (at & vec4u(2u)) != vec4u();
    let four = (at & vec4u(4u)) != vec4u();
    let a = select(vec4f(0.0), vec4f(0.0052083334885537624), one);
    let b = select(vec4f(0.6666666865348816), vec4f(1.0), one);
    let c = select(vec4f(0.3333333432674408), vec4f(0.5), one);
    let d = select(vec4f(0.1666666716337204), vec4f(0.25), one);
    let size = select(select(a, b, two), select(c, d, two), four);
    return select(size, -size, at >= vec4u(8u));
}

fn four_values(absmax: Head, codes: u32, four: u32) -> vec4f {
    return absmax * entries(four_codes(codes, four));
}
