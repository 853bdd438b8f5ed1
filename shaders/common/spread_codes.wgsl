// Codes of blocks that other lanes of the subgroup have loaded, each lane a whole one.

// Those of elements 8 * eight .. 8 * eight + 8 of the block that lane `source` has loaded. All four eights of it are shuffled, since what a lane
// gives is chosen before it is known which of them another lane takes.
fn spread_codes8(codes: Codes, source: u32, eight: u32) -> Codes8 {
    let is_odd = eight % 2u == 1u;
    let low = select(subgroupShuffle(eight_codes(codes, 0u), source), subgroupShuffle(eight_codes(codes, 1u), source), is_odd);
    let high = select(subgroupShuffle(eight_codes(codes, 2u), source), subgroupShuffle(eight_codes(codes, 3u), source), is_odd);
    return select(low, high, eight >= 2u);
}
