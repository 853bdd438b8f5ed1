//! A model's tensors with adapters in them, in any format, a few rows at a time: a model of any size passes through some megabytes.

use std::ops::Range;

use rayon::prelude::*;

use super::replaced::ReplacedTensor;
use super::report::{Rounded, Sums};
use super::{Combination, Combined, Update};
use crate::architecture::{Order, Parameter};
use crate::storage::{DType, TensorInfo, TensorSource};
use crate::{Error, Result};

/// Values that are in memory at one time, about.
const CHUNK_VALUES: usize = 1 << 20;

/// A model's weights and what is to be changed of them.
pub struct MergedWeights<'a> {
    pub source: &'a dyn TensorSource,
    pub update: &'a Update,
    pub combination: Combination,
}

impl<'a> MergedWeights<'a> {
    /// What `dtype` makes of a matrix with the changes in it; `None` where nothing changes it, or its rows are no whole number of blocks.
    ///
    /// # Errors
    /// As [`MergedWeights::stream`].
    pub fn rounded_to(&self, parameter: &Parameter, dtype: DType) -> Result<Option<Rounded>> {
        if !self.info(&parameter.name)?.row_values().is_multiple_of(dtype.block()) {
            return Ok(None);
        }
        Ok(self.stream(parameter, Order::Plain, dtype, |_| Ok(()))?.map(|sums| sums.rounded()))
    }

    /// What the source says of a tensor.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn info(&self, name: &str) -> Result<&'a TensorInfo> {
        self.source.find(name).ok_or_else(|| {
            let proposal = "download or convert the model again";
            Error::bad_input(self.source.place(name), format!("tensor `{name}` is missing"), proposal)
        })
    }

    /// Begins with a parameter: what is changed of it is put together here, once, in however many pieces it is then taken.
    ///
    /// # Errors
    /// The tensor is missing, and as [`Combined::of`].
    pub fn begin(&self, parameter: &Parameter) -> Result<Merging<'a>> {
        let replaced = self.update.replaced.tensor(&parameter.name);
        let info = self.info(replaced.map_or(&parameter.name, |tensor| &tensor.source))?;
        let change = Combined::of(self.update, &info.name, &self.combination)?;
        Ok(Merging { base: Base { source: self.source, info }, replaced, change: change.map(|change| (change, Sums::default())) })
    }

    /// Gives the whole tensor of a parameter, from its first row to its last, as [`Merging::rows`] gives rows. Of a changed tensor, sums over
    /// its values are given back.
    ///
    /// # Errors
    /// As [`MergedWeights::begin`] and [`Merging::rows`].
    pub fn stream(
        &self,
        parameter: &Parameter,
        order: Order,
        dtype: DType,
        each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<Option<Sums>> {
        let mut merging = self.begin(parameter)?;
        merging.rows(0..parameter.shape[0], order, dtype, each)?;
        Ok(merging.sums())
    }
}

/// A parameter of which rows are taken, with what is changed of it.
pub struct Merging<'a> {
    base: Base<'a>,
    replaced: Option<&'a ReplacedTensor>,
    /// With sums over the values that were taken.
    change: Option<(Combined<'a>, Sums)>,
}

impl Merging<'_> {
    /// Gives some rows, whole heads where heads are permuted, in blocks of `dtype` to `each`. Rows are in the order of `order` (a GGUF file's;
    /// [`Order::Plain`] is Hugging Face's). What is stored in this format already and is not changed keeps its bytes; all else is computed in
    /// f64 and rounded once.
    ///
    /// # Errors
    /// The tensor cannot be read; a value is not finite, or too large for the format; and what `each` gives.
    pub fn rows(
        &mut self,
        rows: Range<usize>,
        order: Order,
        dtype: DType,
        mut each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let base = self.base;
        // Of a vector they are its values.
        let columns = base.info.row_values();
        let head = if let Order::Interleaved(head_dim) = order { head_dim } else { 1 };
        let step = (CHUNK_VALUES / columns.max(1)).max(1).next_multiple_of(head);
        let row_bytes = columns / dtype.block() * dtype.block_bytes();
        for first in rows.clone().step_by(step) {
            let chunk = first..(first + step).min(rows.end);
            let bytes = match (&mut self.change, self.replaced) {
                (Some((change, sums)), _) => base.changed_rows(chunk, dtype, change, sums)?,
                (_, Some(tensor)) => base.replaced_rows(chunk, (order, dtype), tensor)?,
                _ => base.rows(chunk, order, dtype)?,
            };
            each(&order.stored(bytes, row_bytes))?;
        }
        Ok(())
    }

    /// Sums over the values that were taken, of a changed tensor.
    pub fn sums(&self) -> Option<Sums> {
        self.change.as_ref().map(|(_, sums)| *sums)
    }
}

/// The model's tensor behind a parameter.
#[derive(Clone, Copy)]
struct Base<'a> {
    source: &'a dyn TensorSource,
    info: &'a TensorInfo,
}

impl Base<'_> {
    /// Rows that nothing changes.
    fn rows(&self, rows: Range<usize>, order: Order, dtype: DType) -> Result<Vec<u8>> {
        if self.info.storage == dtype && order != Order::PlusOne {
            return self.source.read_rows(&self.info.name, rows);
        }
        let mut values = vec![0.0_f32; rows.len() * self.info.row_values()];
        self.source.read_rows_f32(&self.info.name, rows, &mut values)?;
        if order == Order::PlusOne {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        self.check(&values, dtype)?;
        Ok(quantised(&values, dtype, self.info.row_values()))
    }

    /// Rows of the model, and of the adapter in their place or behind them; the model's keep their bytes where [`Self::rows`] does.
    fn replaced_rows(&self, rows: Range<usize>, (order, dtype): (Order, DType), tensor: &ReplacedTensor) -> Result<Vec<u8>> {
        let columns = self.info.row_values();
        let row_bytes = columns / dtype.block() * dtype.block_bytes();
        let mut bytes = Vec::with_capacity(rows.len() * row_bytes);
        for (rows, values) in tensor.pieces(rows) {
            let end = bytes.len() + rows.len() * row_bytes;
            let of_model = rows.start..rows.end.min(self.info.rows());
            match values {
                Some(values) => {
                    self.check(values, dtype)?;
                    let more = if order == Order::PlusOne { 1.0 } else { 0.0 };
                    let values: Vec<f32> = values.iter().map(|value| value + more).collect();
                    bytes.extend(quantised(&values, dtype, columns));
                }
                None if of_model.is_empty() => {}
                None => bytes.extend(self.rows(of_model, order, dtype)?),
            }
            bytes.resize(end, 0);
        }
        Ok(bytes)
    }

    /// Rows with the change in them, which the sums see.
    fn changed_rows(&self, rows: Range<usize>, dtype: DType, change: &Combined, sums: &mut Sums) -> Result<Vec<u8>> {
        let mut before = vec![0.0_f32; rows.len() * self.info.row_values()];
        self.source.read_rows_f32(&self.info.name, rows.clone(), &mut before)?;
        let mut exact: Vec<f64> = before.iter().map(|&value| f64::from(value)).collect();
        change.put_into(rows, &mut exact);
        let values: Vec<f32> = exact.iter().map(|&value| value as f32).collect();
        self.check(&values, dtype)?;
        let bytes = quantised(&values, dtype, self.info.row_values());
        let mut stored = values;
        dtype.dequantise(&bytes, &mut stored);
        sums.see(&before, &exact, &stored);
        Ok(bytes)
    }

    fn check(&self, values: &[f32], dtype: DType) -> Result<()> {
        let place = || format!("{}: tensor {}", self.source.place(&self.info.name), self.info.name);
        if values.iter().any(|value| !value.is_finite()) {
            let proposal = "the model file or the adapter is damaged: use another copy, or an earlier checkpoint";
            return Err(Error::bad_input(place(), "has values that are not finite", proposal));
        }
        // Scales of blocks are f16 too, but of a block's largest value divided by its codes.
        let largest = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let most = if dtype == DType::F16 { f32::from(half::f16::MAX) } else { f32::MAX };
        if largest > most {
            let problem = format!("has a value of {largest}, and {dtype} ends at {most}");
            return Err(Error::bad_input(place(), problem, "choose --type bf16 or f32"));
        }
        Ok(())
    }
}

/// Values as blocks of a file, by several threads.
fn quantised(values: &[f32], dtype: DType, columns: usize) -> Vec<u8> {
    // Vectors have rows of one value.
    let piece = columns.max(1).next_multiple_of(dtype.block()) * (1 + (1 << 14) / columns.max(1));
    let pieces: Vec<Vec<u8>> = values.par_chunks(piece).map(|values| dtype.quantise(values)).collect();
    pieces.concat()
}
