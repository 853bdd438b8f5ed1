// What the lanes of a subgroup of exactly 8 hold, one number each, in every lane.

// The numbers that lanes 0 .. 4, or 4 .. 8, hold.
fn spread_low(x: f32) -> vec4f {
    return vec4f(subgroupBroadcast(x, 0u), subgroupBroadcast(x, 1u), subgroupBroadcast(x, 2u), subgroupBroadcast(x, 3u));
}

fn spread_high(x: f32) -> vec4f {
    return vec4f(subgroupBroadcast(x, 4u), subgroupBroadcast(x, 5u), subgroupBroadcast(x, 6u), subgroupBroadcast(x, 7u));
}
