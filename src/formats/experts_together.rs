//! Experts of which a folder has gate and up of all in one tensor, and down in another, as transformers keeps gpt-oss's:
//!
//! | tensor | shape | |
//! |---|---|---|
//! | experts.gate_up_proj | `[experts, in, 2 out]` | F32, F16 or BF16; gate and up alternate |
//! | experts.down_proj | `[experts, in, out]` | |
//! | experts.gate_up_proj_bias, experts.down_proj_bias | `[experts, 2 out]`, `[experts, out]` | |
//!
//! or, in the place of the first two, as gpt-oss is published:
//!
//! | tensor | shape | |
//! |---|---|---|
//! | experts.X_blocks | `[experts, out, in / 32, 16]` | U8: two codes of MXFP4 a byte, the first in the low half |
//! | experts.X_scales | `[experts, out, in / 32]` | U8: their exponents |
//!
//! What is handed out are gate, up and down of all experts, `[experts out, in]`, and their biases, `[experts out]`. Blocks stay blocks.

use std::ops::Range;

use super::quantised::{Held, Matrix};
use super::stored::{Entry, Stored};
use crate::architecture::experts::{GATE_UP, by_expert, names_with};
use crate::architecture::{Architecture, Parameter, parameters};
use crate::storage::{DType, TensorInfo};
use crate::{Error, Result};

/// What to do about tensors that are not those of the config.
const OTHER_MODEL: &str = "The folder is incomplete or belongs to another model: download it again.";

/// Which of the columns of a file's tensor a matrix has: every `step`-th from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alternating {
    pub first: usize,
    pub step: usize,
}

/// The tensor of a folder that has a parameter of all experts, without its shape's first dimension, and where in it; `None` for a parameter
/// that is not of experts.
pub(crate) fn tensor_of(parameter: &Parameter) -> Option<(String, Alternating)> {
    parameter.experts?;
    let (_, place) = names_with(parameter.module)?;
    let (module, kind) = parameter.name.rsplit_once('.')?;
    let parent = module.strip_suffix(parameter.module)?;
    let (own, at) = match place {
        2 => (parameter.module, Alternating { first: 0, step: 1 }),
        first => (GATE_UP, Alternating { first, step: 2 }),
    };
    let end = if kind == "bias" { "_bias" } else { "" };
    Some((format!("{parent}{own}{end}"), at))
}

/// The experts' matrices and biases among these tensors, of a model whose experts are together.
///
/// # Errors
/// [`Error::BadInput`] naming the tensor that is missing or does not fit.
pub(super) fn matrices(config: &Architecture, stored: &Stored) -> Result<Vec<Matrix>> {
    parameters(config).iter().filter(|parameter| parameter.experts.is_some()).map(|parameter| of(parameter, stored)).collect()
}

fn of(parameter: &Parameter, stored: &Stored) -> Result<Matrix> {
    let bad =
        |name: &str, problem: String| Error::bad_input(format!("{}: tensor {name}", stored.place(name)), problem, OTHER_MODEL);
    let (Some((name, columns)), Some(experts)) = (tensor_of(parameter), parameter.experts) else {
        return Err(bad(&parameter.name, "is none of experts".to_owned()));
    };
    let each = parameter.shape[0] / experts;
    let of_all = columns.step * each;
    let inputs = parameter.shape.get(1).copied();
    let shape: Vec<usize> = [experts].into_iter().chain(inputs).chain([of_all]).collect();
    let part = |name: &str, shape: &[usize], kinds: &[&str]| -> Result<Entry> {
        let entry = stored.get(name).ok_or_else(|| bad(name, format!("is missing; its shape would be {shape:?}")))?;
        if entry.shape != shape {
            return Err(bad(name, format!("has shape {:?}, but the config asks for {shape:?}", entry.shape)));
        }
        if !kinds.contains(&entry.kind.as_str()) {
            return Err(bad(name, format!("is {}, but must be {}", entry.kind, kinds.join(" or "))));
        }
        Ok(entry.clone())
    };
    let matrix = |storage: DType, parts: Vec<String>, held: Box<dyn Held>| {
        let bytes = parts.iter().filter_map(|part| stored.get(part)).map(|entry| entry.bytes() as u64).sum::<u64>();
        let info = TensorInfo {
            name: parameter.name.clone(),
            shape: parameter.shape.clone(),
            storage,
            bytes: bytes / columns.step as u64,
        };
        Matrix { info, parts, held }
    };
    let [blocks, scales] = ["blocks", "scales"].map(|own| format!("{name}_{own}"));
    let Some(inputs) = inputs.filter(|_| stored.get(&blocks).is_some() && stored.get(&name).is_none()) else {
        let entry = part(&name, &shape, &["F32", "F16", "BF16"])?;
        let Some(storage) = DType::of_name(&entry.kind) else { return Err(bad(&name, format!("is {}", entry.kind))) };
        let plain = Plain { part: name.clone(), entry, columns, each, inputs: inputs.unwrap_or(1), size: storage.block_bytes() };
        return Ok(matrix(storage, vec![name], Box::new(plain)));
    };
    let format = DType::MXFP4;
    if !inputs.is_multiple_of(format.block()) {
        return Err(bad(&blocks, format!("is of rows of {inputs} values, which are no whole blocks of {}", format.block())));
    }
    let in_row = inputs / format.block();
    let codes = part(&blocks, &[experts, of_all, in_row, CODE_BYTES], &["U8"])?;
    let exponents = part(&scales, &[experts, of_all, in_row], &["U8"])?;
    let held = Blocks { part: blocks.clone(), codes, exponents, columns, each, in_row };
    Ok(matrix(format, vec![blocks, scales], Box::new(held)))
}

/// Numbers by themselves, in rows of inputs.
struct Plain {
    part: String,
    entry: Entry,
    columns: Alternating,
    /// Rows of an expert's matrix.
    each: usize,
    /// Columns of it; 1 for a bias.
    inputs: usize,
    /// Bytes of a number.
    size: usize,
}

impl Held for Plain {
    fn part(&self) -> &str {
        &self.part
    }

    fn read(&self, stored: &Stored, rows: Range<usize>) -> Result<Vec<u8>> {
        let Alternating { first, step } = self.columns;
        let (size, inputs, in_file) = (self.size, self.inputs, step * self.each);
        let mut bytes = vec![0; rows.len() * inputs * size];
        let mut done = 0;
        for (expert, own) in by_expert(rows, self.each) {
            for input in 0..inputs {
                let line = (expert * inputs + input) * in_file;
                let numbers = stored.read(&self.entry, (line + step * own.start) * size..(line + step * own.end) * size)?;
                for (row, group) in numbers.chunks_exact(step * size).enumerate() {
                    let at = ((done + row) * inputs + input) * size;
                    bytes[at..at + size].copy_from_slice(&group[first * size..][..size]);
                }
            }
            done += own.len();
        }
        Ok(bytes)
    }
}

/// Bytes of the codes of a block, two a byte.
const CODE_BYTES: usize = 16;

/// Blocks of MXFP4, codes and exponents apart.
struct Blocks {
    part: String,
    codes: Entry,
    exponents: Entry,
    columns: Alternating,
    each: usize,
    /// Blocks of a row.
    in_row: usize,
}

impl Held for Blocks {
    fn part(&self) -> &str {
        &self.part
    }

    fn read(&self, stored: &Stored, rows: Range<usize>) -> Result<Vec<u8>> {
        let Alternating { first, step } = self.columns;
        let mut blocks = Vec::with_capacity(rows.len() * self.in_row * (1 + CODE_BYTES));
        for (expert, own) in by_expert(rows, self.each) {
            let [from, to] = [own.start, own.end].map(|row| (expert * self.each + row) * step * self.in_row);
            let codes = stored.read(&self.codes, from * CODE_BYTES..to * CODE_BYTES)?;
            let exponents = stored.read(&self.exponents, from..to)?;
            let of_file = codes.chunks_exact(step * self.in_row * CODE_BYTES).zip(exponents.chunks_exact(step * self.in_row));
            for (codes, exponents) in of_file {
                let codes = &codes[first * self.in_row * CODE_BYTES..][..self.in_row * CODE_BYTES];
                let exponents = &exponents[first * self.in_row..][..self.in_row];
                for (codes, exponent) in codes.chunks_exact(CODE_BYTES).zip(exponents) {
                    blocks.push(*exponent);
                    blocks.extend(in_ggml_order(codes));
                }
            }
        }
        Ok(blocks)
    }
}

/// The codes of a block, which follow each other from the low half of the first byte on, with the first 16 of them in the low halves and the
/// others in the high ones.
fn in_ggml_order(codes: &[u8]) -> [u8; CODE_BYTES] {
    let code = |at: usize| codes[at / 2] >> (4 * (at % 2)) & 15;
    std::array::from_fn(|at| code(at) | code(at + CODE_BYTES) << 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart_by_halves() {
        let codes: [u8; CODE_BYTES] = std::array::from_fn(|at| (2 * at % 16) as u8 | (((2 * at + 1) % 16) << 4) as u8);
        let found = in_ggml_order(&codes);
        assert!(found.iter().enumerate().all(|(at, byte)| usize::from(byte & 15) == at && usize::from(byte >> 4) == at));
    }
}
