// tanh, of which WGSL promises next to nothing. The quotient cancels near 0: there, the series, whose next term is below 1e-8 of x.

fn accurate_tanh(x: vec4f) -> vec4f {
    let square = min(x * x, vec4f(1.0));
    let series = x * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0 + square * (-17.0 / 315.0 + square * (62.0 / 2835.0)))));
    let e = exp(-2.0 * abs(x));
    return select(sign(x) * (1.0 - e) / (1.0 + e), series, square < vec4f(0.0625));
}
