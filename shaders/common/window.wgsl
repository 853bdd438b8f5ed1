// Which keys a row sees under a sliding window: `params.window` of them at the most, its own the last. Without a window, the largest u32.

fn first_seen(segment_start: u32, own: u32) -> u32 {
    return max(segment_start, own - min(own, params.window - 1u));
}
