// The soft cap of scores and logits, SOFTCAP tanh(x / SOFTCAP), or none where SOFTCAP is 0.

override SOFTCAP: f32 = 0.0;

fn capped(x: vec4f) -> vec4f {
    if SOFTCAP == 0.0 {
        return x;
    }
    return SOFTCAP * accurate_tanh(x / SOFTCAP);
}

// Derivative of `capped`, from its value: 1 - tanh^2.
fn cap_slope(capped: vec4f) -> vec4f {
    if SOFTCAP == 0.0 {
        return vec4f(1.0);
    }
    let t = capped / SOFTCAP;
    return (1.0 - t) * (1.0 + t);
}

// WGSL promises next to nothing of tanh. The quotient cancels near 0: there, the series, whose next term is below 1e-8 of x.
fn accurate_tanh(x: vec4f) -> vec4f {
    let square = min(x * x, vec4f(1.0));
    let series = x * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0 + square * (-17.0 / 315.0 + square * (62.0 / 2835.0)))));
    let e = exp(-2.0 * abs(x));
    return select(sign(x) * (1.0 - e) / (1.0 + e), series, square < vec4f(0.0625));
}
