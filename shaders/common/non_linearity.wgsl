// uses: sigmoid, accurate_tanh
// Non-linearities and their slopes; the formulas are in src/ops/activate.rs. All are of the form f(x), and none cancels or overflows.

override NON_LINEARITY: u32 = 0u;
const RELU = 0u;
const LEAKY_RELU = 1u;
const RELU2 = 2u;
const RELU6 = 3u;
const SILU = 4u;
const QUICK_GELU = 5u;
const GELU_TANH = 6u;
const GELU = 7u;
const TANH = 8u;

const LEAK = 0.01;
const QUICK = 1.702;
const TWICE_SQRT_2_PI = 1.5957691216057308;
const CUBE = 0.044715;
const SQRT_HALF = 0.7071067811865476;
const ONE_OVER_SQRT_TWICE_PI = 0.3989422804014327;

// Beyond 20, gelu of either kind is 0 or x in f32, and its slope 0 or 1: where the cube would overflow, nothing is left to compute.
fn bounded(x: vec4f) -> vec4f {
    return clamp(x, vec4f(-20.0), vec4f(20.0));
}

// The share of the standard normal distribution below x: erf by Abramowitz and Stegun 7.1.26, whose error is below 1.5e-7.
fn normal_share(x: vec4f) -> vec4f {
    let z = abs(bounded(x)) * SQRT_HALF;
    let t = 1.0 / (1.0 + 0.3275911 * z);
    let tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))) * exp(-z * z);
    return select(0.5 * tail, 1.0 - 0.5 * tail, x >= vec4f());
}

// s (1 - s) of the sigmoid s, which does not cancel where s is nearly 1.
fn sigmoid_slope(x: vec4f) -> vec4f {
    let e = exp(-abs(x));
    return e / ((1.0 + e) * (1.0 + e));
}

// s(x) of the non-linearities x s(x).
fn share(x: vec4f) -> vec4f {
    if NON_LINEARITY == QUICK_GELU {
        return sigmoid(QUICK * x);
    }
    if NON_LINEARITY == GELU_TANH {
        let b = bounded(x);
        return sigmoid(TWICE_SQRT_2_PI * (b + CUBE * b * b * b));
    }
    return sigmoid(x);
}

// f(x)
fn activated(x: vec4f) -> vec4f {
    if NON_LINEARITY == RELU {
        return max(x, vec4f());
    }
    if NON_LINEARITY == LEAKY_RELU {
        return select(LEAK * x, x, x > vec4f());
    }
    if NON_LINEARITY == RELU2 {
        let above = max(x, vec4f());
        return above * above;
    }
    if NON_LINEARITY == RELU6 {
        return clamp(x, vec4f(), vec4f(6.0));
    }
    if NON_LINEARITY == SILU || NON_LINEARITY == QUICK_GELU || NON_LINEARITY == GELU_TANH {
        return x * share(x);
    }
    if NON_LINEARITY == GELU {
        return x * normal_share(x);
    }
    if NON_LINEARITY == TANH {
        return accurate_tanh(x);
    }
    return sigmoid(x);
}

// f'(x)
fn activated_slope(x: vec4f) -> vec4f {
    let above = select(vec4f(), vec4f(1.0), x > vec4f());
    if NON_LINEARITY == RELU {
        return above;
    }
    if NON_LINEARITY == LEAKY_RELU {
        return select(vec4f(LEAK), vec4f(1.0), x > vec4f());
    }
    if NON_LINEARITY == RELU2 {
        return 2.0 * max(x, vec4f());
    }
    if NON_LINEARITY == RELU6 {
        return select(vec4f(), above, x < vec4f(6.0));
    }
    if NON_LINEARITY == GELU {
        let b = bounded(x);
        return normal_share(x) + b * ONE_OVER_SQRT_TWICE_PI * exp(-0.5 * b * b);
    }
    if NON_LINEARITY == TANH {
        return 4.0 * sigmoid_slope(2.0 * x);
    }
    if NON_LINEARITY > TANH {
        return sigmoid_slope(x);
    }
    let s = share(x);
    let falling = s * (1.0 - s);
    if NON_LINEARITY == SILU {
        return s + x * falling;
    }
    if NON_LINEARITY == QUICK_GELU {
        return s + QUICK * x * falling;
    }
    let b = bounded(x);
    return s + b * falling * (TWICE_SQRT_2_PI * (1.0 + 3.0 * CUBE * b * b));
}
