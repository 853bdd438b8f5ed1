// Sum over the LANES invocations of a workgroup that is one subgroup. All of them must call it together.

fn lane_sum(lane: u32, own: vec4f) -> vec4f {
    return subgroupAdd(own);
}
