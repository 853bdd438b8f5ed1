// For products without a low-rank term; see low_rank.

fn low_rank_steps() -> u32 {
    return 0u;
}

fn u_steps(i: u32, k: u32) -> vec4f {
    return vec4f();
}

fn v_block(j: u32, k: u32) -> mat4x4f {
    return mat4x4f();
}

fn low_rank_sum(column: u32) -> f32 {
    return 0.0;
}
