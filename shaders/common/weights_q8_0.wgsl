// uses: {words}, codes_8bit
// Q8_0, see src/storage/q8_0.rs: d code, with d in f32.

const GROUP_BLOCKS = 8u;
const GROUP_WORDS = 72u;
const CODES = 8u;

alias Head = f32;

fn load_head(block: u32) -> Head {
    return bitcast<f32>(word(group_at(block) + block % 8u));
}

fn four_values(d: Head, codes: u32, four: u32) -> vec4f {
    return d * vec4f(unpack4xI8(codes));
}
