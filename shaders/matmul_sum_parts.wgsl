// matmul, the end of a product whose k is split over workgroups: out = sum of parts (+ addend) (+ out). The parts are scaled already.
// Algorithm: one invocation 4 columns of a row. Traffic: reads each part once, writes out once.
// Accumulates in f32, part after part, so that two runs agree.

struct Params {
    m: u32, n: u32, parts: u32, flags: u32, // flags as in matmul_io
    out_start: u32, out_row: u32,           // row i of out (and of addend) starts at element out_start + i * out_row
}

const HAS_ADDEND = 1u;
const ACCUMULATE = 2u; // add to what out holds

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> sums: array<vec4f>; // [parts][m, n]
@group(0) @binding(2) var<storage, read> addend: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let word = (group.y * groups.x + group.x) * 64u + lane;
    let words = params.m * params.n / 4u;
    if word >= words {
        return;
    }
    var sum = sums[word];
    for (var part = 1u; part < params.parts; part++) {
        sum += sums[part * words + word];
    }
    let row = word / (params.n / 4u);
    let at = (params.out_start + row * params.out_row) / 4u + word % (params.n / 4u);
    if (params.flags & HAS_ADDEND) != 0u {
        sum += addend[at];
    }
    if (params.flags & ACCUMULATE) != 0u {
        sum += out[at];
    }
    out[at] = sum;
}
