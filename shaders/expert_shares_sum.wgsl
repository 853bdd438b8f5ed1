// expert_shares, second of two passes: the sums over the parts of the first one, behind those of other layers where there are any.
// Algorithm: one invocation an expert. Traffic: reads the parts once. Sums in f32, in the order of the parts; rows are counted in integers.

struct Params { parts: u32, experts: u32, adds: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> parts: array<f32>;                 // [parts, 2, experts]
@group(0) @binding(2) var<storage, read> probabilities_before: array<f32>;  // [experts], if adds
@group(0) @binding(3) var<storage, read> sent_before: array<u32>;           // [experts], if adds
@group(0) @binding(4) var<storage, read_write> probabilities: array<f32>;   // [experts]
@group(0) @binding(5) var<storage, read_write> sent: array<u32>;            // [experts]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let expert = (group.y * groups.x + group.x) * 64u + lane;
    if expert >= params.experts {
        return;
    }
    var sum = 0.0;
    var rows = 0u;
    for (var part = 0u; part < params.parts; part++) {
        sum += parts[2u * part * params.experts + expert];
        rows += u32(parts[(2u * part + 1u) * params.experts + expert]);
    }
    if params.adds == 1u {
        sum += probabilities_before[expert];
        rows += sent_before[expert];
    }
    probabilities[expert] = sum;
    sent[expert] = rows;
}
