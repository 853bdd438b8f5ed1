// uses: accurate_tanh
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
