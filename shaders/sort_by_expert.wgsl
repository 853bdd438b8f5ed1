// sort_by_expert: the rows that each expert has to do, one after the other: a counting sort that keeps the order of equals.
// Algorithm: one workgroup an expert. Each of its 64 invocations takes a piece of the entries. It counts those of lower experts, which say where
// the expert's rows begin, and its own; from these counts each knows where its own entries go, and goes through them again.
// No atomics: two runs are equal. Traffic: every workgroup reads all entries twice, from cache.

struct Params { entries: u32, experts: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> numbers: array<u32>;        // [entries]: the expert of each
@group(0) @binding(2) var<storage, read_write> rows: array<u32>;     // [entries]: the entry of each row
@group(0) @binding(3) var<storage, read_write> places: array<u32>;   // [entries]: the row of each entry
@group(0) @binding(4) var<storage, read_write> offsets: array<u32>;  // [experts + 1]

var<workgroup> lower_of: array<u32, 64>;
var<workgroup> own_of: array<u32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let expert = group.x;
    let each = (params.entries + 63u) / 64u;
    let first = min(lane * each, params.entries);
    let end = min(first + each, params.entries);
    var lower = 0u;
    var own = 0u;
    for (var entry = first; entry < end; entry++) {
        let number = numbers[entry];
        lower += u32(number < expert);
        own += u32(number == expert);
    }
    lower_of[lane] = lower;
    own_of[lane] = own;
    workgroupBarrier();
    var start = 0u;
    var before = 0u;
    for (var other = 0u; other < 64u; other++) {
        start += lower_of[other];
        if other < lane {
            before += own_of[other];
        }
    }
    if lane == 0u {
        offsets[expert] = start;
        if expert == params.experts - 1u {
            offsets[params.experts] = params.entries;
        }
    }
    var row = start + before;
    for (var entry = first; entry < end; entry++) {
        if numbers[entry] == expert {
            rows[row] = entry;
            places[entry] = row;
            row++;
        }
    }
}
