// Rows whose length is a multiple of 4, read and written by four values: a quarter of the loads, each of which costs a CPU driver as much as many
// additions. Its counterparts are row_ones and row_fours_wide.

const WIDTH = 4u;

alias Values = vec4f;
alias Stored = vec4f;

fn values_of(stored: Stored) -> Values {
    return stored;
}

fn stored_of(values: Values) -> Stored {
    return values;
}

fn inner(a: Values, b: Values) -> f32 {
    return dot(a, b);
}
