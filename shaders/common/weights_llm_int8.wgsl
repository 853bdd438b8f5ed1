// uses: {words}, codes_8bit
// LLM.int8, see src/storage/llm_int8.rs: (code s) / 127, as two products, which a compiler may take in another order; two blocks share a scale s.

const GROUP_BLOCKS = 8u;
const GROUP_WORDS = 68u;
const CODES = 4u;

alias Head = f32;

fn load_head(block: u32) -> Head {
    return bitcast<f32>(word(group_at(block) + block % 8u / 2u));
}

fn four_values(scale: Head, codes: u32, four: u32) -> vec4f {
    return scale * vec4f(unpack4xI8(codes)) * 0.007874015718698502;
}
