// uses: scale_of_two, codes_8bit
// FP8 in E4M3, see src/storage/fp8_e4m3.rs: s number; two blocks share a scale.

const GROUP_WORDS = 68u;

// Exponent and mantissa move to their places in an f32, whose exponent has 120 more. A number below 2^-6 is its mantissa times 2^-9; as a
// subnormal f32 it would be lost on many devices.
fn numbers(codes: vec4u) -> vec4f {
    let size = codes & vec4u(0x7fu);
    let normal = bitcast<vec4f>((size << vec4u(20u)) + vec4u(120u << 23u));
    let small = vec4f(size) * 0.001953125;
    let positive = bitcast<vec4u>(select(small, normal, size >= vec4u(8u)));
    return bitcast<vec4f>(positive | ((codes & vec4u(0x80u)) << vec4u(24u)));
}

fn four_values(scale: Head, codes: u32, four: u32) -> vec4f {
    return scale * numbers(unpack4xU8(codes));
}
