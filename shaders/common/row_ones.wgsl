// Rows of any length, read and written value by value. Its counterpart is row_fours.

alias Values = f32;

fn inner(a: Values, b: Values) -> f32 {
    return a * b;
}
