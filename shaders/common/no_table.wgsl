// For formats whose codes number no table; see table_lanes.

fn prepare(lane: u32) {}
