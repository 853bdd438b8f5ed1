// Matrices of one shape, element by element, four at a time. A workgroup is for 1,024 elements: starting one costs a CPU driver about as
// much as a hundred elements, and a load of four little more than one of one. The last four are read whole, since buffers are padded,
// and stored one by one.

struct Params { elements: u32 }

@group(0) @binding(0) var<uniform> params: Params;

// The fours of this workgroup: the first, and the one behind the last.
fn fours_of(group: vec3u, groups: vec3u) -> vec2u {
    let start = (group.y * groups.x + group.x) * 256u;
    return vec2u(start, min(start + 256u, (params.elements + 3u) / 4u));
}

// Elements from the i-th four on; less than four in the last one.
fn left_from(i: u32) -> u32 {
    return params.elements - 4u * i;
}
