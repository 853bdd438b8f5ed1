// uses: matmul_operands, spread_lanes, {low_rank}, {table}
// matmul_matvec for block-quantised weights on drivers with subgroups of exactly 8 (CPU drivers such as lavapipe):
// out[j] = scale * sum over k of a[k] b[j, k] (+ addend) (+ out), with a low-rank term where there is one.
// Algorithm: one subgroup takes 8 columns, that is 8 rows of b, one a lane. It goes along k block by block: a lane loads what its row's
// block holds, and 4 of the 32 elements of a, which reach the other lanes by broadcast.
// Why it is fast: loads set the pace on a CPU driver. A Q4_1 block takes 3 loads of 16 bytes, one of them for a; with lanes along k, each
// 4 elements would take a scale, their codes and their part of a.
// Dispatch: x = 1, y = groups of 8 columns. Traffic: b once (it decides), a from cache. Accumulates in f32: four sums along k, one for each
// element in four, added at the end. Columns past the end repeat the last and are not stored. n is a multiple of 4, k of 32.

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    prepare(lane);
    let first = group.y * 8u;
    let own = min(first + lane, params.n - 1u);
    let blocks = params.k / 32u;
    let row = params.b_start / 32u + own * blocks;
    var fours: vec4f;
    for (var block = 0u; block < blocks; block++) {
        let x = load_a4(params.a_start / 4u + 8u * block + lane);
        let head = load_head(row + block);
        let codes = load_codes(row + block);
        fours += values_of(head, codes, 0u) * subgroupBroadcast(x, 0u);
        fours += values_of(head, codes, 1u) * subgroupBroadcast(x, 1u);
        fours += values_of(head, codes, 2u) * subgroupBroadcast(x, 2u);
        fours += values_of(head, codes, 3u) * subgroupBroadcast(x, 3u);
        fours += values_of(head, codes, 4u) * subgroupBroadcast(x, 4u);
        fours += values_of(head, codes, 5u) * subgroupBroadcast(x, 5u);
        fours += values_of(head, codes, 6u) * subgroupBroadcast(x, 6u);
        fours += values_of(head, codes, 7u) * subgroupBroadcast(x, 7u);
    }
    let sum = fours.x + fours.y + fours.z + fours.w + low_rank_sum(own);
    let low = spread_low(sum);
    let high = spread_high(sum);
    if lane == 0u {
        store4(0u, first, low);
        store4(0u, first + 4u, high);
    }
}
