// uses: sigmoid
// Activations of a gate, all of the form g * s(g): silu, s = sigmoid(g), gelu with tanh, (1 + tanh(z / 2)) / 2 = sigmoid(z) with
// z = 2 sqrt(2 / pi) (g + 0.044715 g^3), and silu with bounds, s = sigmoid(ALPHA g), where gate is at most LIMIT, and up, which is at most
// LIMIT in magnitude, more by 1. None cancels or overflows.

override ACTIVATION: u32 = 0u;
const SILU = 0u;
const GELU_TANH = 1u;
const CLAMPED_SILU = 2u;
override LIMIT: f32 = 7.0;
override ALPHA: f32 = 1.702;

const TWICE_SQRT_2_PI = 1.5957691216057308;
const CUBE = 0.044715;

// What stands for gate.
fn bound_gate(g: vec4f) -> vec4f {
    if ACTIVATION == CLAMPED_SILU {
        return min(g, vec4f(LIMIT));
    }
    return g;
}

// What stands for up.
fn bound_up(u: vec4f) -> vec4f {
    if ACTIVATION == CLAMPED_SILU {
        return clamp(u, vec4f(-LIMIT), vec4f(LIMIT)) + 1.0;
    }
    return u;
}

// The gradient of gate or up itself, given that of what stands for it; `beyond` is how far it is beyond 0: gate, or the magnitude of up.
fn within_bound(gradient: vec4f, beyond: vec4f) -> vec4f {
    if ACTIVATION == CLAMPED_SILU {
        return select(vec4f(), gradient, beyond <= vec4f(LIMIT));
    }
    return gradient;
}

// s(g)
fn gate_share(g: vec4f) -> vec4f {
    if ACTIVATION == GELU_TANH {
        return sigmoid(TWICE_SQRT_2_PI * (bounded(g) + CUBE * bounded(g) * bounded(g) * bounded(g)));
    }
    if ACTIVATION == CLAMPED_SILU {
        return sigmoid(ALPHA * g);
    }
    return sigmoid(g);
}

// (g s)' = s + g s', with s = gate_share(g)
fn gate_slope(g: vec4f, s: vec4f) -> vec4f {
    if ACTIVATION == GELU_TANH {
        return s + bounded(g) * s * (1.0 - s) * (TWICE_SQRT_2_PI * (1.0 + 3.0 * CUBE * bounded(g) * bounded(g)));
    }
    if ACTIVATION == CLAMPED_SILU {
        return s + ALPHA * g * s * (1.0 - s);
    }
    return s + g * s * (1.0 - s);
}

// Beyond 20, s of gelu is 0 or 1 in f32, and its slope 0: where the cube would overflow, nothing is left to compute.
fn bounded(g: vec4f) -> vec4f {
    return clamp(g, vec4f(-20.0), vec4f(20.0));
}
