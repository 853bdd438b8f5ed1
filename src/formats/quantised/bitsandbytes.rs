//! bitsandbytes, by which transformers quantises while it loads, and saves what it loaded.
//!
//! 4 bits (NF4 and FP4 of QLoRA, Dettmers et al. 2023): `w = t[q] absmax`, in blocks over the whole matrix, row after row.
//!
//! | tensor | | |
//! |---|---|---|
//! | X.weight | U8 `[out in / 2, 1]`, or another type of as many bytes | codes, the first in the high half of a byte |
//! | X.weight.quant_state.bitsandbytes__nf4 | U8 | JSON: shape, blocksize, and more with double quantisation |
//! | X.weight.quant_map | F32 `[16]` | t |
//! | X.weight.absmax | F32 `[blocks]`, with double quantisation U8 | |
//! | X.weight.nested_quant_map, X.weight.nested_absmax | F32 `[256]`, F32 `[blocks / 256]` | `absmax = map[q] nested_absmax + nested_offset` |
//!
//! 8 bits (LLM.int8, Dettmers et al. 2022): `w = q SCB / 127`.
//!
//! | tensor | | |
//! |---|---|---|
//! | X.weight | I8 `[out, in]` | |
//! | X.SCB | F32 `[out]` | |
//! | X.weight_format | U8, one number | 0: row by row |

use std::ops::Range;

use serde_json::Value;

use super::{Held, Matrix, Scheme};
use crate::Result;
use crate::formats::stored::{Entry, Stored};
use crate::storage::{DType, TensorInfo};

/// Values of a block of [`DType::NF4`], [`DType::FP4`] and [`DType::LLM_INT8`].
const BLOCK: usize = 64;

pub(super) fn check(scheme: &Scheme) -> Result<()> {
    scheme.one_of("bnb_4bit_quant_type", &["nf4", "fp4"])
}

pub(super) fn find(scheme: &Scheme, stored: &Stored) -> Result<Vec<Matrix>> {
    let mut matrices = Vec::new();
    for (name, entry) in stored.entries() {
        if let Some((weight, kind)) = name.rsplit_once(".quant_state.bitsandbytes__") {
            matrices.push(four_bits(scheme, stored, weight, kind, name)?);
        } else if let Some(module) = name.strip_suffix(".SCB") {
            matrices.push(eight_bits(scheme, stored, module, entry)?);
        }
    }
    Ok(matrices)
}

/// The tensor of this name, if it holds `count` numbers in F32.
fn floats(scheme: &Scheme, stored: &Stored, name: &str, count: usize) -> Result<Vec<f32>> {
    let entry = scheme.part(stored, name)?;
    if entry.kind != "F32" || entry.bytes() != count.saturating_mul(4) {
        let problem = format!("is {} of shape {:?}, not {count} numbers in F32", entry.kind, entry.shape);
        return Err(scheme.bad_part(stored, name, problem));
    }
    Ok(as_floats(&stored.read(entry, 0..entry.bytes())?))
}

fn as_floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|number| f32::from_le_bytes([number[0], number[1], number[2], number[3]])).collect()
}

fn four_bits(scheme: &Scheme, stored: &Stored, weight: &str, kind: &str, state_name: &str) -> Result<Matrix> {
    let bad = |problem: &str| scheme.bad_part(stored, state_name, problem.to_owned());
    let state = scheme.part(stored, state_name)?;
    let state: Value = serde_json::from_slice(&stored.read(state, 0..state.bytes())?)
        .map_err(|error| bad(&format!("holds no JSON: {error}")))?;
    let number = |key: &str| state.get(key).and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok());
    let shape: Option<Vec<usize>> = state
        .get("shape")
        .and_then(Value::as_array)
        .and_then(|shape| shape.iter().map(|size| size.as_u64().and_then(|size| usize::try_from(size).ok())).collect());
    let Some(&[rows, columns]) = shape.as_deref() else { return Err(bad("has no `shape` of two numbers")) };
    let (Some(values), Some(size)) = (rows.checked_mul(columns), number("blocksize").filter(|size| *size > 0)) else {
        return Err(bad("has no `blocksize`, or a `shape` that is too large"));
    };
    let part = |own: &str| format!("{weight}.{own}");
    let codes = scheme.part(stored, weight)?.clone();
    if codes.bytes() != values.div_ceil(2) {
        let problem = format!("has {} bytes, but its {rows} x {columns} codes take {}", codes.bytes(), values.div_ceil(2));
        return Err(scheme.bad_part(stored, weight, problem));
    }
    let table = floats(scheme, stored, &part("quant_map"), 16)?;
    let blocks = values.div_ceil(size);
    let mut parts = vec![weight.to_owned(), state_name.to_owned(), part("quant_map"), part("absmax")];
    let absmax = scheme.part(stored, &part("absmax"))?.clone();
    let nested = match stored.get(&part("nested_absmax")) {
        None => None,
        Some(_) => {
            parts.extend([part("nested_absmax"), part("nested_quant_map")]);
            let Some(size) = number("nested_blocksize").filter(|size| *size > 0) else {
                return Err(bad("has no `nested_blocksize`"));
            };
            let Some(offset) = state.get("nested_offset").and_then(Value::as_f64) else {
                return Err(bad("has no `nested_offset`"));
            };
            Some(Nested {
                map: floats(scheme, stored, &part("nested_quant_map"), 256)?,
                absmax: floats(scheme, stored, &part("nested_absmax"), blocks.div_ceil(size))?,
                size,
                offset: offset as f32,
            })
        }
    };
    let (own_kind, own_size) = if nested.is_some() { ("U8", 1) } else { ("F32", 4) };
    if absmax.kind != own_kind || absmax.bytes() != blocks.saturating_mul(own_size) {
        let problem = format!("is {} of shape {:?}, but the matrix has {blocks} blocks in {own_kind}", absmax.kind, absmax.shape);
        return Err(scheme.bad_part(stored, &part("absmax"), problem));
    }
    // In place where a block is within a row, and the table is the one that kernels know.
    let format = match kind {
        "nf4" => DType::NF4,
        "fp4" => DType::FP4,
        _ => return Err(bad("is of a kind that graftling does not know; it reads nf4 and fp4")),
    };
    let fits =
        columns.is_multiple_of(BLOCK) && size.is_multiple_of(BLOCK) && format.table().is_some_and(|known| known[..] == table[..]);
    let info = TensorInfo {
        name: weight.to_owned(),
        shape: vec![rows, columns],
        storage: if fits { format } else { DType::F32 },
        bytes: parts.iter().filter_map(|part| stored.get(part)).map(|entry| entry.bytes() as u64).sum(),
    };
    let held = FourBits { part: weight.to_owned(), codes, absmax, nested, table, size, values, columns, in_place: fits };
    Ok(Matrix { info, parts, held: Box::new(held) })
}

/// What double quantisation made of absmax.
struct Nested {
    map: Vec<f32>,
    absmax: Vec<f32>,
    /// Absmax that share one of these.
    size: usize,
    offset: f32,
}

struct FourBits {
    part: String,
    codes: Entry,
    absmax: Entry,
    nested: Option<Nested>,
    table: Vec<f32>,
    /// Values of a block.
    size: usize,
    /// All of them.
    values: usize,
    columns: usize,
    in_place: bool,
}

impl FourBits {
    /// The absmax of these blocks, by bitsandbytes' operations in their order.
    fn absmax(&self, stored: &Stored, blocks: Range<usize>) -> Result<Vec<f32>> {
        let Some(nested) = &self.nested else {
            return Ok(as_floats(&stored.read(&self.absmax, 4 * blocks.start..4 * blocks.end)?));
        };
        let codes = stored.read(&self.absmax, blocks.clone())?;
        let value =
            |(code, block): (u8, usize)| nested.map[usize::from(code)] * nested.absmax[block / nested.size] + nested.offset;
        Ok(codes.into_iter().zip(blocks).map(value).collect())
    }
}

impl Held for FourBits {
    fn part(&self) -> &str {
        &self.part
    }

    fn read(&self, stored: &Stored, rows: Range<usize>) -> Result<Vec<u8>> {
        let range = rows.start * self.columns..rows.end * self.columns;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let first_block = range.start / self.size;
        let absmax = self.absmax(stored, first_block..range.end.div_ceil(self.size))?;
        // Whole words, in case the codes are stored as a type of more than a byte.
        let word = 4;
        let first_byte = range.start / 2 / word * word;
        let last_byte = range.end.div_ceil(2).next_multiple_of(word).min(self.values.div_ceil(2));
        let codes = stored.read(&self.codes, first_byte..last_byte)?;
        if self.in_place {
            let blocks = codes[range.start / 2 - first_byte..].chunks_exact(BLOCK / 2).zip(range.step_by(BLOCK));
            return Ok(blocks
                .flat_map(|(codes, at)| [&absmax[at / self.size - first_block].to_le_bytes()[..], codes].concat())
                .collect());
        }
        let value = |at: usize| {
            let byte = codes[at / 2 - first_byte];
            let code = if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
            self.table[usize::from(code)] * absmax[at / self.size - first_block]
        };
        Ok(range.flat_map(|at| value(at).to_le_bytes()).collect())
    }
}

fn eight_bits(scheme: &Scheme, stored: &Stored, module: &str, scales: &Entry) -> Result<Matrix> {
    let part = |own: &str| format!("{module}.{own}");
    let codes = scheme.part(stored, &part("weight"))?.clone();
    let &[rows, columns] = codes.shape.as_slice() else {
        return Err(scheme.bad_part(stored, &part("weight"), format!("has shape {:?}, which is no matrix", codes.shape)));
    };
    if codes.kind != "I8" {
        return Err(scheme.bad_part(stored, &part("weight"), format!("is {}, but codes of LLM.int8 are I8", codes.kind)));
    }
    let mut parts = vec![part("weight"), part("SCB")];
    if let Some(order) = stored.get(&part("weight_format")) {
        parts.push(part("weight_format"));
        if stored.read(order, 0..order.bytes())?.iter().any(|byte| *byte != 0) {
            let problem = "says that codes lie in another order than row by row".to_owned();
            return Err(scheme.bad_part(stored, &part("weight_format"), problem));
        }
    }
    if scales.kind != "F32" || scales.bytes() != rows.saturating_mul(4) {
        let problem = format!("is {} of shape {:?}, not a number in F32 for each of {rows} rows", scales.kind, scales.shape);
        return Err(scheme.bad_part(stored, &part("SCB"), problem));
    }
    let in_place = columns.is_multiple_of(BLOCK);
    let info = TensorInfo {
        name: part("weight"),
        shape: vec![rows, columns],
        storage: if in_place { DType::LLM_INT8 } else { DType::F32 },
        bytes: parts.iter().filter_map(|part| stored.get(part)).map(|entry| entry.bytes() as u64).sum(),
    };
    let held = EightBits { part: part("weight"), codes, scales: scales.clone(), columns, in_place };
    Ok(Matrix { info, parts, held: Box::new(held) })
}

struct EightBits {
    part: String,
    codes: Entry,
    scales: Entry,
    columns: usize,
    in_place: bool,
}

impl Held for EightBits {
    fn part(&self) -> &str {
        &self.part
    }

    fn read(&self, stored: &Stored, rows: Range<usize>) -> Result<Vec<u8>> {
        let scales = stored.read(&self.scales, 4 * rows.start..4 * rows.end)?;
        let codes = stored.read(&self.codes, rows.start * self.columns..rows.end * self.columns)?;
        let lines = codes.chunks_exact(self.columns.max(1)).zip(scales.chunks_exact(4));
        if self.in_place {
            return Ok(lines
                .flat_map(|(codes, scale)| codes.chunks_exact(BLOCK).flat_map(move |block| [scale, block].concat()))
                .collect());
        }
        // One value is dequantised as a block is.
        let mut bytes = Vec::with_capacity(4 * codes.len());
        let mut values = [0.0; BLOCK];
        for (codes, scale) in lines {
            for codes in codes.chunks(BLOCK) {
                let mut block = [0; 4 + BLOCK];
                block[..4].copy_from_slice(scale);
                block[4..][..codes.len()].copy_from_slice(codes);
                DType::LLM_INT8.dequantise(&block, &mut values);
                bytes.extend(values[..codes.len()].iter().flat_map(|value| value.to_le_bytes()));
            }
        }
        Ok(bytes)
    }
}
