// uses: sigmoid
// Activations of a gate, all of the form g * s(g): silu, s = sigmoid(g), and gelu with tanh, (1 + tanh(z / 2)) / 2 = sigmoid(z) with
// z = 2 sqrt(2 / pi) (g + 0.044715 g^3). Neither cancels nor overflows.

override ACTIVATION: u32 = 0u;
const SILU = 0u;
const GELU_TANH = 1u;

const TWICE_SQRT_2_PI = 1.5957691216057308;
const CUBE = 0.044715;

// s(g)
fn gate_share(g: vec4f) -> vec4f {
    if ACTIVATION == GELU_TANH {
        return sigmoid(TWICE_SQRT_2_PI * (bounded(g) + CUBE * bounded(g) * bounded(g) * bounded(g)));
    }
    return sigmoid(g);
}

// (g s)' = s + g s', with s = gate_share(g)
fn gate_slope(g: vec4f, s: vec4f) -> vec4f {
    if ACTIVATION == GELU_TANH {
        return s + bounded(g) * s * (1.0 - s) * (TWICE_SQRT_2_PI * (1.0 + 3.0 * CUBE * bounded(g) * bounded(g)));
    }
    return s + g * s * (1.0 - s);
}

// Beyond 20, s of gelu is 0 or 1 in f32, and its slope 0: where the cube would overflow, nothing is left to compute.
fn bounded(g: vec4f) -> vec4f {
    return clamp(g, vec4f(-20.0), vec4f(20.0));
}
