// uses: scale_of_two, codes_4bit, {table}
// FP4, see src/storage/fp4.rs: absmax table[code]; two blocks share an absmax. The highest bit of a code is the sign.

const GROUP_WORDS = 36u;
const TABLE = array<f32, 16>(
    0.0, 0.0052083334885537624, 0.6666666865348816, 1.0, 0.3333333432674408, 0.5, 0.1666666716337204, 0.25,
    0.0, -0.0052083334885537624, -0.6666666865348816, -1.0, -0.3333333432674408, -0.5, -0.1666666716337204, -0.25,
);

fn table_entry(code: u32) -> f32 {
    return TABLE[code];
}

fn four_values(absmax: Head, codes: u32, four: u32) -> vec4f {
    return absmax * entries(four_codes(codes, four));
}
