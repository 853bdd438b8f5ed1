// embedding: y[t] = weight[ids[t]], for the ids whose row lies in this part of the weight. One workgroup a token.
// Traffic: reads one packed row and writes one f32 row a token. No accumulation. The weight is read as 32-bit words, so one
// kernel serves every storage type and every number of columns.

struct Params {
    rows: u32,      // tokens
    columns: u32,
    first_row: u32, // of this part
    part_rows: u32,
    storage: u32,   // 0 f32, 1 f16, 2 bf16, 3 q8_0, 4 q4_1
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;     // [rows]
@group(0) @binding(2) var<storage, read> words: array<u32>;   // [part_rows, columns], packed
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [rows, columns]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * groups.x + group.x;
    if row >= params.rows {
        return;
    }
    let id = ids[row];
    if id < params.first_row || id - params.first_row >= params.part_rows {
        return; // another part's
    }
    let start = (id - params.first_row) * params.columns;
    for (var c = lane; c < params.columns; c += 64u) {
        y[row * params.columns + c] = load(start + c);
    }
}

// Element i of the part. For the blocks see src/gpu/blocks.rs.
fn load(i: u32) -> f32 {
    switch params.storage {
        case 0u: {
            return bitcast<f32>(words[i]);
        }
        case 1u, 2u: {
            let half = (words[i / 2u] >> (16u * (i % 2u))) & 0xffffu;
            return select(bitcast<f32>(half << 16u), unpack2x16float(half).x, params.storage == 1u);
        }
        case 3u: {
            let block = i / 32u;
            let at = i % 32u;
            let code = unpack4xI8(words[8u * block + 4u * (block / 4u + 1u) + at / 4u])[at % 4u];
            return bitcast<f32>(words[36u * (block / 4u) + block % 4u]) * f32(code);
        }
        default: {
            let block = i / 32u;
            let at = i % 32u;
            let code = (words[4u * (block + block / 4u + 1u) + at / 8u] >> (8u * (at % 4u) + at % 8u / 4u * 4u)) & 15u;
            let scale = unpack2x16float(words[20u * (block / 4u) + block % 4u]);
            return scale.x * f32(code) + scale.y;
        }
    }
}
