//! From the bytes of a weight in its file to the bytes with which it rests on the device.

use crate::formats::Storage;
use crate::gpu::blocks::{BLOCK, q4_1, q8_0};
use crate::gpu::encode;
use crate::graph::DType;
use half::f16;

/// The storage type that rests on the device without loss.
pub(super) fn lossless(storage: Storage) -> DType {
    match storage {
        Storage::F32 => DType::F32,
        Storage::F16 => DType::F16,
        Storage::BF16 => DType::BF16,
        Storage::Q8_0 => DType::Q8_0,
        Storage::Q4_0 | Storage::Q4_1 => DType::Q4_1,
    }
}

/// `stored`, whole blocks of `storage`, as bytes of `dtype`; through f32, unless `dtype` is that of the file.
pub(super) fn pack(stored: &[u8], storage: Storage, dtype: DType) -> Vec<u8> {
    let blocks = stored.chunks_exact(storage.block_bytes());
    match (storage, dtype) {
        (Storage::F32, DType::F32) | (Storage::F16, DType::F16) | (Storage::BF16, DType::BF16) => stored.to_vec(),
        (Storage::Q8_0, DType::Q8_0) => q8_0(blocks.map(|block| (f16_at(block, 0).to_f32(), signed(&block[2..])))),
        (Storage::Q4_1, DType::Q4_1) => q4_1(blocks.map(|block| (f16_at(block, 0), f16_at(block, 2), codes(&block[4..])))),
        // d (q - 8) = d q - 8 d, and 8 d is exact but for scales beyond 8188, which no weight has.
        (Storage::Q4_0, DType::Q4_1) => q4_1(blocks.map(|block| {
            let d = f16_at(block, 0);
            (d, f16::from_f32(-8.0 * d.to_f32()), codes(&block[2..]))
        })),
        _ => {
            let mut values = vec![0.0; stored.len() / storage.block_bytes() * storage.block_values()];
            storage.dequantise(stored, &mut values);
            encode(&values, dtype)
        }
    }
}

fn f16_at(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn signed(bytes: &[u8]) -> [i8; BLOCK] {
    std::array::from_fn(|at| bytes[at] as i8)
}

/// ggml's order: the low halves of 16 bytes, then the high ones.
fn codes(packed: &[u8]) -> [u8; BLOCK] {
    std::array::from_fn(|at| if at < BLOCK / 2 { packed[at] & 0x0f } else { packed[at - BLOCK / 2] >> 4 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Random;

    /// The values of device blocks, by the table in [`crate::gpu::blocks`].
    fn unpacked(bytes: &[u8], dtype: DType) -> Vec<f32> {
        let word = |at: usize| -> [u8; 4] { std::array::from_fn(|byte| bytes[4 * at + byte]) };
        let words = if dtype == DType::Q8_0 { 8 } else { 4 }; // of a block's codes
        (0..bytes.len() / (4 * (1 + words)) * BLOCK)
            .map(|element| {
                let (block, at) = (element / BLOCK, element % BLOCK);
                let group = block / 4 * 4 * (1 + words);
                let (head, codes) = (word(group + block % 4), group + 4 + block % 4 * words);
                if dtype == DType::Q8_0 {
                    return f32::from_le_bytes(head) * f32::from(word(codes + at / 4)[at % 4] as i8);
                }
                let (d, m) = (f16_at(&head, 0).to_f32(), f16_at(&head, 2).to_f32());
                let code = word(codes + at / 8)[at % 4] >> (4 * (at % 8 / 4)) & 15;
                d * f32::from(code) + m
            })
            .collect()
    }

    #[test]
    fn blocks_rest_on_the_device_with_the_values_of_the_file() {
        const BLOCKS: usize = 50; // the last group is not full
        let mut random = Random(1);
        for storage in [Storage::Q8_0, Storage::Q4_0, Storage::Q4_1] {
            let mut stored: Vec<u8> = (0..BLOCKS * storage.block_bytes()).map(|_| random.below(256) as u8).collect();
            for block in stored.chunks_exact_mut(storage.block_bytes()) {
                let mut scale = || f16::from_f64(random.uniform() / 8.0).to_le_bytes();
                block[..2].copy_from_slice(&scale());
                if storage == Storage::Q4_1 {
                    block[2..4].copy_from_slice(&scale());
                }
            }
            let mut expected = vec![0.0; BLOCKS * BLOCK];
            storage.dequantise(&stored, &mut expected);
            let dtype = lossless(storage);
            let packed = pack(&stored, storage, dtype);
            assert_eq!(packed.len(), dtype.bytes(expected.len()));
            assert_eq!(unpacked(&packed, dtype)[..expected.len()], expected, "{storage:?}");
            // Other types come from the same values.
            let widened: Vec<u8> = expected.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(pack(&stored, storage, DType::F32), widened, "{storage:?}");
        }
    }
}
