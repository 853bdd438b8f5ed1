// For products without a low-rank term; see low_rank.

fn add_low_rank(sums: EightRows, row: u32, column: u32) -> EightRows {
    return sums;
}

fn low_rank_sum(column: u32) -> f32 {
    return 0.0;
}
