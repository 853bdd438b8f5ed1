// uses: scale_of_two, codes_8bit
// LLM.int8, see src/storage/llm_int8.rs: (code s) / 127, as two products, which a compiler may take in another order; two blocks share a scale s.

const GROUP_WORDS = 68u;

fn four_values(scale: Head, codes: u32, four: u32) -> vec4f {
    return scale * vec4f(unpack4xI8(codes)) * 0.007874015718698502;
}
