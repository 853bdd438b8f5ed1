// uses: scale_of_two, codes_4bit, {table}
// NF4, see src/storage/nf4.rs: absmax table[code]; two blocks share an absmax.

const GROUP_WORDS = 36u;
const TABLE = array<f32, 16>(
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
);

fn table_entry(code: u32) -> f32 {
    return TABLE[code];
}

fn four_values(absmax: Head, codes: u32, four: u32) -> vec4f {
    return absmax * entries(four_codes(codes, four));
}
