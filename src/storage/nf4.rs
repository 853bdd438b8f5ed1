//! NF4, the 4-bit NormalFloat of QLoRA (Dettmers et al. 2023) as bitsandbytes has it: 64 values `t[q] absmax`, where the codes q number
//! quantiles of a normal distribution, scaled to -1 .. 1.
//!
//! | | bytes | |
//! |---|---|---|
//! | a block of 64 | 36 | absmax: f32, 32 bytes of nibbles, the high half first |
//! | device, a group of 256 | 144 | 4 x absmax: f32, 256 x q |
//!
//! bitsandbytes keeps absmax beside the codes, in 8 bits with double quantisation; here it has been computed, in its order of operations
//! ([`super::double_quant`]).

use super::planes::{BLOCK, put_nibbles};
use super::{Format, Scale};

pub(super) static FORMAT: Format = Format {
    name: "NF4",
    block: 2 * BLOCK,
    block_bytes: 36,
    group: 8 * BLOCK,
    group_bytes: 144,
    scales: &[Scale::F32(0)],
    dequantise: |block, out| dequantise(block, &TABLE, out),
    pack,
    quantise: Some(|values, block| {
        let absmax = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        block[..4].copy_from_slice(&absmax.to_le_bytes());
        let inverse = 1.0 / absmax.max(1e-38);
        for (byte, pair) in block[4..].iter_mut().zip(values.chunks_exact(2)) {
            *byte = code(pair[0] * inverse) << 4 | code(pair[1] * inverse);
        }
    }),
};

/// `bitsandbytes.functional.get_4bit_type("nf4")`.
#[allow(clippy::excessive_precision, reason = "the digits of the paper's code")]
pub(super) static TABLE: [f32; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

/// The values of a block whose codes number entries of this table.
pub(super) fn dequantise(block: &[u8], table: &[f32; 16], out: &mut [f32]) {
    let absmax = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    for (out, q) in out.iter_mut().zip(codes(&block[4..])) {
        *out = table[usize::from(q)] * absmax;
    }
}

/// Blocks of 64 to a group.
pub(super) fn pack(blocks: &[u8], group: &mut [u8]) {
    for (at, block) in blocks.chunks_exact(36).enumerate() {
        group[4 * at..][..4].copy_from_slice(&block[..4]);
        for (half, codes) in codes(&block[4..]).chunks_exact(BLOCK).enumerate() {
            put_nibbles(codes, &mut group[16 + 32 * at + 16 * half..]);
        }
    }
}

fn codes(packed: &[u8]) -> [u8; 2 * BLOCK] {
    std::array::from_fn(|at| packed[at / 2] >> (4 * (1 - at % 2)) & 15)
}

/// The nearest entry; the lower one where two are equally near.
fn code(value: f32) -> u8 {
    let is_above = |pair: &&[f32]| value > (pair[0] + pair[1]) / 2.0;
    TABLE.windows(2).filter(is_above).count() as u8
}
