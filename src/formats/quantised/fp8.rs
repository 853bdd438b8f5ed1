//! FP8 in E4M3 with scales, as Qwen and DeepSeek publish models: `w = q scale`.
//!
//! | tensor | | |
//! |---|---|---|
//! | X.weight | F8_E4M3 `[out, in]` | |
//! | X.weight_scale_inv, or X.weight_scale | one number; `[out]` or `[out, 1]`; or `[out / 128, in / 128]`, rounded up | |
//!
//! Scales of activations are left out: activations are not rounded here.

use std::ops::Range;

use super::packed::{Axis, Values};
use super::{Held, Matrix, Scheme};
use crate::Result;
use crate::formats::stored::{Entry, Stored};
use crate::storage::{DType, TensorInfo};

/// Tensors that tell how activations were rounded.
const OF_ACTIVATIONS: [&str; 3] = ["input_scale", "activation_scale", "input_scale_ub"];

pub(super) fn check(scheme: &Scheme) -> Result<()> {
    for key in ["fmt", "weight_format"] {
        scheme.one_of(key, &["e4m3", "float8_e4m3fn"])?;
    }
    Ok(())
}

pub(super) fn find(scheme: &Scheme, stored: &Stored) -> Result<Vec<Matrix>> {
    let block = scheme.settings.get("weight_block_size").and_then(serde_json::Value::as_array);
    let side = |at: usize| block.and_then(|block| block.get(at)?.as_u64()).filter(|side| *side > 0).unwrap_or(128) as usize;
    let mut matrices = Vec::new();
    for (name, entry) in stored.entries().filter(|(_, entry)| entry.kind == "F8_E4M3") {
        let Some(module) = name.strip_suffix(".weight") else { continue };
        let &[rows, columns] = entry.shape.as_slice() else { continue };
        let part = |own: &str| format!("{module}.{own}");
        let mut parts = vec![name.to_owned()];
        let scale = [part("weight_scale_inv"), part("weight_scale")].into_iter().find(|name| stored.get(name).is_some());
        let scales = match scale {
            None => None,
            Some(scale) => {
                parts.push(scale.clone());
                // One number may be of no dimension.
                let mut entry = scheme.part(stored, &scale)?.clone();
                if entry.shape.is_empty() {
                    entry.shape = vec![1];
                }
                Some((Values::of_entry(stored, &scale, entry, Axis::First)?, scale))
            }
        };
        parts.extend(OF_ACTIVATIONS.map(part).into_iter().filter(|name| stored.get(name).is_some()));
        // Rows and columns that share a scale.
        let square = match &scales {
            None => [rows, columns],
            Some((scales, scale)) => match scales.size() {
                [1, 1] => [rows, columns],
                [own, 1] if own == rows => [1, columns],
                size if size == [rows.div_ceil(side(0)), columns.div_ceil(side(1))] => [side(0), side(1)],
                size => {
                    let problem = format!(
                        "has shape {size:?}, which is neither one number, one for each of {rows} rows, nor one for each {} x {}",
                        side(0),
                        side(1)
                    );
                    return Err(scheme.bad_part(stored, scale, problem));
                }
            },
        };
        let in_place = |columns_of: usize| columns_of == columns || columns_of.is_multiple_of(DType::FP8_E4M3.block());
        let fits = columns.is_multiple_of(DType::FP8_E4M3.block()) && in_place(square[1]);
        let info = TensorInfo {
            name: name.to_owned(),
            shape: vec![rows, columns],
            storage: if fits { DType::FP8_E4M3 } else { DType::F32 },
            bytes: parts.iter().filter_map(|part| stored.get(part)).map(|entry| entry.bytes() as u64).sum(),
        };
        let scales = scales.map(|(scales, _)| scales);
        let held = Fp8 { part: name.to_owned(), codes: entry.clone(), scales, square, columns, format: info.storage };
        matrices.push(Matrix { info, parts, held: Box::new(held) });
    }
    Ok(matrices)
}

struct Fp8 {
    part: String,
    codes: Entry,
    scales: Option<Values>,
    /// Rows and columns that share a scale.
    square: [usize; 2],
    columns: usize,
    format: DType,
}

impl Held for Fp8 {
    fn part(&self) -> &str {
        &self.part
    }

    fn read(&self, stored: &Stored, rows: Range<usize>) -> Result<Vec<u8>> {
        let codes = stored.read(&self.codes, rows.start * self.columns..rows.end * self.columns)?;
        let across = self.columns.div_ceil(self.square[1].max(1)).max(1);
        let first = rows.start / self.square[0].max(1);
        let scales = match &self.scales {
            Some(scales) => scales.read(stored, first..rows.end.div_ceil(self.square[0].max(1)))?,
            None => vec![1.0; across],
        };
        // Where nothing has blocks of this size, a block is the largest part of a row that does.
        let size = if self.format == DType::F32 { 1 } else { self.format.block() };
        let mut blocks = Vec::with_capacity(codes.len() + codes.len() / 8);
        for (row, codes) in rows.zip(codes.chunks_exact(self.columns.max(1))) {
            let line = row / self.square[0] - first;
            for (number, codes) in codes.chunks_exact(size).enumerate() {
                let scale = scales[line * across + number * size / self.square[1]];
                if self.format == DType::F32 {
                    let mut block = [0; 68];
                    block[..4].copy_from_slice(&scale.to_le_bytes());
                    block[4] = codes[0];
                    let mut values = [0.0; 64];
                    DType::FP8_E4M3.dequantise(&block, &mut values);
                    blocks.extend(values[0].to_le_bytes());
                } else {
                    blocks.extend(scale.to_le_bytes());
                    blocks.extend(codes);
                }
            }
        }
        Ok(blocks)
    }
}
