// adamw: one optimizer step over all adapter parameters at once, in place. One invocation a parameter.
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
    let i = (group.y * groups.x + group.x) * 64u + lane;
    if i >= params.elements || !is_finite(global_norm[0]) {
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

    var g = gradients[i];
    if max_grad_norm > 0.0 {
        g *= min(1.0, max_grad_norm / (global_norm[0] + 1e-6));
    }
    let m = first_moment[i] + (1.0 - beta1) * (g - first_moment[i]);
    let v = beta2 * second_moment[i] + (1.0 - beta2) * g * g;
    let denominator = sqrt(v) / sqrt(bias_correction2) + eps;
    let decayed = parameters[i] * (1.0 - learning_rate * weight_decay);
    parameters[i] = decayed - learning_rate / bias_correction1 * (m / denominator);
    first_moment[i] = m;
    second_moment[i] = v;
}

// By its bits, since WGSL lets a compiler assume that no value is infinite or not a number.
fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}
