// uses: {words}, blocks
// Groups of 8 blocks that begin with four scales in f32, each of two blocks.

const GROUP_BLOCKS = 8u;
const CODES = 4u;

alias Head = f32;

fn load_head(block: u32) -> Head {
    return bitcast<f32>(word(group_at(block) + block % 8u / 2u));
}
