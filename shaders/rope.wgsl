// uses: {values}
// rope: rotates the pair (x[c], x[c + HALF]) of every head by its position's angle, and copies the columns of a head that are in no
// pair. One workgroup a row.
// Traffic: reads x and the table's row once, writes y. No accumulation.

struct Params { rows: u32, heads: u32, positions: u32, inverse: u32 }

override HALF: u32 = 32;     // pairs of a head; a constant, since integer division by a variable is slow
override HEAD_DIM: u32 = 64; // columns of a head, 2 HALF or more; both are multiples of WIDTH
override LANES: u32 = 64u;   // invocations a row

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Stored>;     // [rows, heads * HEAD_DIM]
@group(0) @binding(2) var<storage, read> position: array<u32>; // [rows]
@group(0) @binding(3) var<storage, read> table: array<Stored>; // [positions, 2 HALF]: cosines, then sines
@group(0) @binding(4) var<storage, read_write> y: array<Values>; // as x

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * groups.x + group.x;
    if row >= params.rows {
        return;
    }
    let half = HALF / WIDTH;
    let head_dim = HEAD_DIM / WIDTH;
    let start = row * params.heads * head_dim;
    let entry = min(position[row], params.positions - 1u) * 2u * half;
    for (var pair = lane; pair < params.heads * half; pair += LANES) {
        let head = pair / half;
        let c = pair % half;
        let cosine = values_of(table[entry + c]);
        let angle_sine = values_of(table[entry + c + half]);
        let sine = select(angle_sine, -angle_sine, params.inverse != 0u);
        let at = start + head * head_dim + c;
        let first = values_of(x[at]);
        let second = values_of(x[at + half]);
        y[at] = first * cosine - second * sine;
        y[at + half] = second * cosine + first * sine;
    }
    // No rounds where all columns are in pairs. The divisor is never 0.
    let others = head_dim - 2u * half;
    for (var other = lane; other < params.heads * others; other += LANES) {
        let at = start + other / max(others, 1u) * head_dim + 2u * half + other % max(others, 1u);
        y[at] = values_of(x[at]);
    }
}
