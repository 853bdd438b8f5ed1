// 1 / (1 + exp(-x)) without overflow: exp only of numbers that are not positive.

fn sigmoid(x: vec4f) -> vec4f {
    let e = exp(-abs(x));
    return select(e, vec4f(1.0), x >= vec4f()) / (1.0 + e);
}
