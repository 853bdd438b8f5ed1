// rope: rotates the pair (x[c], x[c + D/2]) of every head by its position's angle. One invocation a pair.
// Traffic: reads x and the table's row once, writes y. No accumulation.

struct Params { rows: u32, heads: u32, head_dim: u32, positions: u32, inverse: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;        // [rows, heads * head_dim]
@group(0) @binding(2) var<storage, read> position: array<u32>; // [rows]
@group(0) @binding(3) var<storage, read> table: array<f32>;    // [positions, head_dim]: cosines, then sines
@group(0) @binding(4) var<storage, read_write> y: array<f32>;  // as x

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let pair = (group.y * groups.x + group.x) * 64u + lane;
    let half = params.head_dim / 2u;
    let vector = pair / half; // one head of one row
    let row = vector / params.heads;
    if row >= params.rows {
        return;
    }
    let c = pair % half;
    let entry = min(position[row], params.positions - 1u) * params.head_dim + c;
    let cosine = table[entry];
    let sine = select(table[entry + half], -table[entry + half], params.inverse != 0u);
    let at = vector * params.head_dim + c;
    let first = x[at];
    let second = x[at + half];
    y[at] = first * cosine - second * sine;
    y[at + half] = second * cosine + first * sine;
}
