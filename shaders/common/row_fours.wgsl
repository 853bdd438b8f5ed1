// Rows whose length is a multiple of 4, read and written by four values: a quarter of the loads, each of which costs a CPU driver as much as many
// additions. Its counterpart is row_ones.

alias Values = vec4f;

fn inner(a: Values, b: Values) -> f32 {
    return dot(a, b);
}
