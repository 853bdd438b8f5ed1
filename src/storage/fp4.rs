//! FP4 as bitsandbytes has it: 64 values `t[q] absmax`, where the codes q number 16 numbers of 4 bits: a sign, two bits of exponent, one of
//! mantissa, scaled to -1 .. 1.
//!
//! | | bytes | |
//! |---|---|---|
//! | a block of 64 | 36 | as [`super::nf4`] |
//! | device, a group of 256 | 144 | as [`super::nf4`] |

use super::Format;
use super::nf4;

pub(super) static FORMAT: Format = Format {
    name: "FP4",
    dequantise: |block, out| nf4::dequantise(block, &TABLE, out),
    quantise: None,
    block: nf4::FORMAT.block,
    block_bytes: nf4::FORMAT.block_bytes,
    group: nf4::FORMAT.group,
    group_bytes: nf4::FORMAT.group_bytes,
    scales: nf4::FORMAT.scales,
    pack: nf4::pack,
};

/// `bitsandbytes.functional.get_4bit_type("fp4")`: code 1 is below the even steps of the others.
#[allow(clippy::excessive_precision, reason = "the digits that bitsandbytes prints")]
pub(super) static TABLE: [f32; 16] = {
    const SIZES: [f32; 8] =
        [0.0, 0.0052083334885537624, 0.6666666865348816, 1.0, 0.3333333432674408, 0.5, 0.1666666716337204, 0.25];
    let mut table = [0.0; 16];
    let mut at = 0;
    while at < 8 {
        table[at] = SIZES[at];
        // 0 has no sign.
        table[at + 8] = 0.0 - SIZES[at];
        at += 1;
    }
    table
};
