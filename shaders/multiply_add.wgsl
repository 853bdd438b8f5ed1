// multiply_add: y = x after `steps` times x <- factor x + addend. Works in registers alone, so its speed is the device's peak.
// Algorithm: an invocation carries CHAINS vec4s through all steps. A multiply-add waits for the one before it in its chain and for no
// other, so as many of them are in flight as there are chains; few chains need few registers. Which number is best, a
// measurement tells.
// Traffic: reads x once, writes y once; the arithmetic between grows with `steps`. Storing y keeps compilers from dropping it.
// Accumulates in f32, each element on its own.

struct Params { vec4s: u32, steps: u32, factor: f32, addend: f32 }

override CHAINS: u32 = 4u; // 1, 2, 4 or 8
const UNROLLED = 8u;       // steps in the loop's body; divides `steps`

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;       // [vec4s]
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>; // [vec4s]

// Past the end, the last one: computed, and not stored.
fn load(at: u32) -> vec4f {
    return x[min(at, params.vec4s - 1u)];
}

fn store(at: u32, value: vec4f) {
    if at < params.vec4s {
        y[at] = value;
    }
}

// UNROLLED steps, written out: a CPU driver does not unroll a loop here, and copies what it carries at each turn.
fn advanced(x: vec4f, a: vec4f, b: vec4f) -> vec4f {
    let half = fma(fma(fma(fma(x, a, b), a, b), a, b), a, b);
    return fma(fma(fma(fma(half, a, b), a, b), a, b), a, b);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let at = (group.y * groups.x + group.x) * 64u * CHAINS + lane;
    let a = vec4f(params.factor);
    let b = vec4f(params.addend);
    var x0 = load(at);
    var x1 = load(at + 64u);
    var x2 = load(at + 128u);
    var x3 = load(at + 192u);
    var x4 = load(at + 256u);
    var x5 = load(at + 320u);
    var x6 = load(at + 384u);
    var x7 = load(at + 448u);
    for (var step = 0u; step < params.steps; step += UNROLLED) {
        x0 = advanced(x0, a, b);
        if CHAINS > 1u {
            x1 = advanced(x1, a, b);
        }
        if CHAINS > 2u {
            x2 = advanced(x2, a, b);
            x3 = advanced(x3, a, b);
        }
        if CHAINS > 4u {
            x4 = advanced(x4, a, b);
            x5 = advanced(x5, a, b);
            x6 = advanced(x6, a, b);
            x7 = advanced(x7, a, b);
        }
    }
    store(at, x0);
    if CHAINS > 1u {
        store(at + 64u, x1);
    }
    if CHAINS > 2u {
        store(at + 128u, x2);
        store(at + 192u, x3);
    }
    if CHAINS > 4u {
        store(at + 256u, x4);
        store(at + 320u, x5);
        store(at + 384u, x6);
        store(at + 448u, x7);
    }
}
