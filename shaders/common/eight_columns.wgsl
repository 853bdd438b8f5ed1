// Eight numbers by a load of 32 bytes: a CPU driver gathers lane by lane, 8 bytes a component, so this costs about as much as a vec4 of
// f32. Needs SHADER_INT64.

struct Eight {
    near: vec4f, // the first four
    far: vec4f,
}

fn eight_of(pairs: vec4<u64>) -> Eight {
    return Eight(four_of(pairs.xy), four_of(pairs.zw));
}

fn four_of(pairs: vec2<u64>) -> vec4f {
    return bitcast<vec4f>(vec4u(u32(pairs.x), u32(pairs.x >> 32u), u32(pairs.y), u32(pairs.y >> 32u)));
}
