// dropout: y = kept ? x / (1 - p) : 0, kept decided by a hash of seed, step, salt and element. One workgroup for 1,024 elements, 64 at a time: starting a
// workgroup costs a CPU driver about as much as a hundred elements.
// Traffic: reads x, writes y. No accumulation.

struct Params {
    elements: u32,
    salt: u32,      // tells the dropouts of one step apart
    threshold: u32, // an element is kept if its hash is not below: p * 2^32
    factor: f32,    // 1 / (1 - p)
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;       // [elements]
@group(0) @binding(2) var<storage, read> counter: array<u32>; // [2]: seed, step
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [elements]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let key = mix(mix(mix(counter[0]) + counter[1]) + params.salt);
    let start = (group.y * groups.x + group.x) * 1024u + lane;
    for (var i = start; i < min(start + 1024u, params.elements); i += 64u) {
        let kept = mix(mix(i ^ key) + key) >= params.threshold;
        y[i] = select(0.0, params.factor * x[i], kept);
    }
}

// A bijection of 32 bits in which every input bit flips every output bit with probability close to 1/2.
fn mix(value: u32) -> u32 {
    var z = value + 0x9e3779b9u;
    z = (z ^ (z >> 16u)) * 0x85ebca6bu;
    z = (z ^ (z >> 13u)) * 0xc2b2ae35u;
    return z ^ (z >> 16u);
}
