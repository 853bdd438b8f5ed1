//! Numbers by themselves: F32, BF16, F16, and U32 for what is counted. On the device as in the file.

use super::{Format, Scale};
use half::{bf16, f16};

pub(super) static F32: Format = Format {
    quantise: Some(|values, bytes| bytes.copy_from_slice(&values[0].to_le_bytes())),
    ..number("F32", 4, |bytes, out| out[0] = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
};

pub(super) static BF16: Format = Format {
    quantise: Some(|values, bytes| bytes.copy_from_slice(&bf16::from_f32(values[0]).to_le_bytes())),
    ..number("BF16", 2, |bytes, out| out[0] = bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32())
};

pub(super) static F16: Format = Format {
    scales: &[Scale::F16(0)],
    quantise: Some(|values, bytes| bytes.copy_from_slice(&f16::from_f32(values[0]).to_le_bytes())),
    ..number("F16", 2, |bytes, out| out[0] = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32())
};

pub(super) static U32: Format = Format {
    quantise: Some(|values, bytes| {
        let value = values[0];
        assert!(value >= 0.0 && value.fract() == 0.0 && value <= u32::MAX as f32, "{value} is no u32");
        bytes.copy_from_slice(&(value as u32).to_le_bytes());
    }),
    ..number("U32", 4, |bytes, out| out[0] = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as f32)
};

const fn number(name: &'static str, bytes: usize, dequantise: fn(&[u8], &mut [f32])) -> Format {
    Format {
        name,
        block: 1,
        block_bytes: bytes,
        group: 1,
        group_bytes: bytes,
        scales: &[],
        dequantise,
        pack: |stored, group| group.copy_from_slice(stored),
        quantise: None,
    }
}
