// A table of 16 numbers in the lanes of a subgroup of exactly 8, two a lane: looking up is a shuffle, which a CPU driver does by one
// instruction for all lanes, where a tree of choices takes 15 for each code. Of the format it takes table_entry.

var<private> own_entries: vec2f;

// Before the first look-up, by all lanes.
fn prepare(lane: u32) {
    own_entries = vec2f(table_entry(lane), table_entry(lane + 8u));
}

fn entries_of(part: f32, lanes: vec4u) -> vec4f {
    return vec4f(subgroupShuffle(part, lanes.x), subgroupShuffle(part, lanes.y), subgroupShuffle(part, lanes.z), subgroupShuffle(part, lanes.w));
}

// The entries that four codes number, one a byte.
fn entries(codes: u32) -> vec4f {
    let at = unpack4xU8(codes);
    let lanes = at & vec4u(7u);
    return select(entries_of(own_entries.x, lanes), entries_of(own_entries.y, lanes), at >= vec4u(8u));
}
