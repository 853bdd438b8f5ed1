// uses: wide_loads
// row_fours with loads of 8 bytes a component, for CPU drivers.

const WIDTH = 4u;

alias Values = vec4f;
alias Stored = vec2<u64>;

fn values_of(stored: Stored) -> Values {
    return four_of(stored);
}

fn stored_of(values: Values) -> Stored {
    return pairs_of(values);
}

fn inner(a: Values, b: Values) -> f32 {
    return dot(a, b);
}
