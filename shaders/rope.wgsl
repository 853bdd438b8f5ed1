// rope: rotates the pair (x[c], x[c + HALF]) of every head by its position's angle, and copies the columns of a head that are in no
// pair. One workgroup a row.
// Traffic: reads x and the table's row once, writes y. No accumulation.

struct Params { rows: u32, heads: u32, positions: u32, inverse: u32 }

override HALF: u32 = 32;     // pairs of a head; a constant, since integer division by a variable is slow
override HEAD_DIM: u32 = 64; // columns of a head, 2 HALF or more

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;        // [rows, heads * HEAD_DIM]
@group(0) @binding(2) var<storage, read> position: array<u32>; // [rows]
@group(0) @binding(3) var<storage, read> table: array<f32>;    // [positions, 2 HALF]: cosines, then sines
@group(0) @binding(4) var<storage, read_write> y: array<f32>;  // as x

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * groups.x + group.x;
    if row >= params.rows {
        return;
    }
    let start = row * params.heads * HEAD_DIM;
    let entry = min(position[row], params.positions - 1u) * 2u * HALF;
    for (var pair = lane; pair < params.heads * HALF; pair += 64u) {
        let head = pair / HALF;
        let c = pair % HALF;
        let cosine = table[entry + c];
        let sine = select(table[entry + c + HALF], -table[entry + c + HALF], params.inverse != 0u);
        let at = start + head * HEAD_DIM + c;
        let first = x[at];
        let second = x[at + HALF];
        y[at] = first * cosine - second * sine;
        y[at + HALF] = second * cosine + first * sine;
    }
    // No rounds where all columns are in pairs. The divisor is never 0.
    let others = HEAD_DIM - 2u * HALF;
    for (var other = lane; other < params.heads * others; other += 64u) {
        let at = start + other / max(others, 1u) * HEAD_DIM + 2u * HALF + other % max(others, 1u);
        y[at] = x[at];
    }
}
