// uses: {words}
// Scales and offsets of Q4_K and Q5_K: 4 words for 8 blocks, with d and dmin, and of each block a scale s and an offset n of 6 bits.

// d s and -dmin n of a block, of whose group the head is these words. Both products are exact.
fn k_scale(head: vec4u, block: u32) -> vec2f {
    let low = (head.yz >> vec2u(4u * (block % 8u))) & vec2u(15u);
    let high = (vec2u(head.w, head.w >> 16u) >> vec2u(2u * (block % 8u))) & vec2u(3u);
    return unpack2x16float(head.x) * vec2f(low | (high << vec2u(4u))) * vec2f(1.0, -1.0);
}
