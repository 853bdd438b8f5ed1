// adamw: one optimizer step over all adapter parameters at once, in place. One workgroup for 1,024 parameters, 64 at a time: starting a
// workgroup costs a CPU driver about as much as a hundred elements.
// Traffic: reads gradient, parameter and both moments, writes parameter and both moments. No accumulation.

struct Params { elements: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradients: array<f32>;            // [elements]
@group(0) @binding(2) var<storage, read> global_norm: array<f32>;          // [1]
@group(0) @binding(3) var<storage, read> hyper: array<f32>;                // [8]
@group(0) @binding(4) var<storage, read_write> parameters: array<f32>;     // [elements]
@group(0) @binding(5) var<storage, read_write> first_moment: array<f32>;   // [elements]
@group(0) @binding(6) var<storage, read_write> second_moment: array<f32>;  // [elements]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    if !is_finite(global_norm[0]) {
        return;
    }
    let learning_rate = hyper[0];
    let beta1 = hyper[1];
    let beta2 = hyper[2];
    let eps = hyper[3];
    let weight_decay = hyper[4];
    let bias_correction1 = hyper[5];
    let bias_correction2 = hyper[6];
    let max_grad_norm = hyper[7];
    let clip = select(1.0, min(1.0, max_grad_norm / (global_norm[0] + 1e-6)), max_grad_norm > 0.0);

    let start = (group.y * groups.x + group.x) * 1024u + lane;
    for (var i = start; i < min(start + 1024u, params.elements); i += 64u) {
        let g = clip * gradients[i];
        var m = first_moment[i];
        m += (1.0 - beta1) * (g - m);
        let v = beta2 * second_moment[i] + (1.0 - beta2) * g * g;
        let denominator = sqrt(v) / sqrt(bias_correction2) + eps;
        let decayed = parameters[i] * (1.0 - learning_rate * weight_decay);
        parameters[i] = decayed - learning_rate / bias_correction1 * (m / denominator);
        first_moment[i] = m;
        second_moment[i] = v;
    }
}

// By its bits, since WGSL lets a compiler assume that no value is infinite or not a number.
fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}
