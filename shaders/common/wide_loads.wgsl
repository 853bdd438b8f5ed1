// uses: eight
// Loads, and stores, of 8 bytes a component: a CPU driver gathers each component of a load lane by lane, so two of 8 bytes cost about half of four of
// 4, and four of them, 32 bytes, about as much as a vec4 of f32. Needs SHADER_INT64.

fn words_of(pairs: vec2<u64>) -> vec4u {
    return vec4u(u32(pairs.x), u32(pairs.x >> 32u), u32(pairs.y), u32(pairs.y >> 32u));
}

fn four_of(pairs: vec2<u64>) -> vec4f {
    return bitcast<vec4f>(words_of(pairs));
}

fn pairs_of(four: vec4f) -> vec2<u64> {
    let words = bitcast<vec4u>(four);
    return vec2<u64>(u64(words.x) | (u64(words.y) << 32u), u64(words.z) | (u64(words.w) << 32u));
}

fn eight_of(pairs: vec4<u64>) -> Eight {
    return Eight(four_of(pairs.xy), four_of(pairs.zw));
}
