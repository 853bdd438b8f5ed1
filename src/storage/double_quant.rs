//! Double quantisation of QLoRA (Dettmers et al. 2023) as bitsandbytes does it: the absmax of NF4's blocks, less their mean, are rounded to
//! 8 bits themselves, in blocks of 256 with an absmax each.

use std::sync::LazyLock;

use super::DType;

/// Absmax that share one of their own.
const BLOCK: usize = 256;

/// bitsandbytes' `create_dynamic_map`: for each power of ten from 1e-6 to 1, twice as many even steps from a tenth of it up as for the one
/// before, with both signs; 0, and 1.
static CODES: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let mut codes = vec![0.0, 1.0];
    for exponent in 0..7_i32 {
        let steps = 1_usize << exponent;
        // As torch.linspace does it in f32: from both ends to the middle.
        let step = 0.9_f32 / steps as f32;
        let boundary = |at: usize| match at < steps.div_ceil(2) {
            true => step.mul_add(at as f32, 0.1),
            false => (-step).mul_add((steps - at) as f32, 1.0),
        };
        for at in 0..steps {
            let mean = (boundary(at) + boundary(at + 1)) / 2.0;
            let code = 10.0_f64.powi(exponent - 6) as f32 * mean;
            codes.extend([code, -code]);
        }
    }
    codes.sort_by(f32::total_cmp);
    codes
});

/// The absmax of each block of NF4.
pub fn absmax(values: &[f32]) -> impl Iterator<Item = f32> {
    values.chunks(DType::NF4.block()).map(|block| block.iter().fold(0.0_f32, |most, value| most.max(value.abs())))
}

/// Values as they rest on the device in NF4, with absmax that have been rounded. Codes are those of the exact ones.
pub fn encode(values: &[f32], absmax: &[f32]) -> Vec<u8> {
    let mut blocks = DType::NF4.quantise(values);
    for (block, absmax) in blocks.chunks_exact_mut(DType::NF4.block_bytes()).zip(absmax) {
        block[..4].copy_from_slice(&absmax.to_le_bytes());
    }
    DType::NF4.pack(&blocks)
}

/// Rounds the absmax of a whole tensor, as they are read back after double quantisation.
pub fn round_absmax(absmax: &mut [f32]) {
    // The mean of f32 as it would be without rounding; bitsandbytes adds up in an order that depends on the processor.
    let offset = (absmax.iter().map(|&value| f64::from(value)).sum::<f64>() / absmax.len().max(1) as f64) as f32;
    for block in absmax.chunks_mut(BLOCK) {
        let most = block.iter().fold(0.0_f32, |most, value| most.max((value - offset).abs()));
        let inverse = 1.0 / most.max(1e-38);
        for value in block {
            let code = nearest(((*value - offset) * inverse).clamp(-1.0, 1.0));
            // Two roundings, in this order.
            *value = code * most + offset;
        }
    }
}

/// The nearest code; the lower one where two are equally near. bitsandbytes looks codes up in a table of 65,536 places from -1 to 1 where it
/// runs on a CPU, and so does this.
fn nearest(value: f32) -> f32 {
    const HALF: f64 = 32_767.5;
    let value = (((f64::from(value) + 1.0) * HALF).round() / HALF - 1.0) as f32;
    let codes = &*CODES;
    let at = codes.partition_point(|code| *code < value).clamp(1, codes.len() - 1);
    let (below, above) = (codes[at - 1], codes[at]);
    if (above - value).abs() < (value - below).abs() { above } else { below }
}
