// uses: {table}
// The table of IQ4_NL and IQ4_XS: -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113.

const BYTES = vec4u(0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);

fn table_entry(code: u32) -> f32 {
    return f32(unpack4xI8(BYTES[code / 4u])[code % 4u]);
}
