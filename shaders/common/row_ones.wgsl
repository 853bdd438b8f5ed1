// Rows of any length, read and written value by value. Its counterparts are row_fours and row_fours_wide.

const WIDTH = 1u;

alias Values = f32;
alias Stored = f32;

fn values_of(stored: Stored) -> Values {
    return stored;
}

fn inner(a: Values, b: Values) -> f32 {
    return a * b;
}
