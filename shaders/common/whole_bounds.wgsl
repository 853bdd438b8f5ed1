// The ends of a product of all rows, and where its operands begin: as Params says.

fn rows_end() -> u32 {
    return params.m;
}

fn steps_end() -> u32 {
    return params.k;
}

fn a_first() -> u32 {
    return params.a_start;
}

fn b_first() -> u32 {
    return params.b_start;
}
