//! Matrices of codes in groups of columns, each with a scale and a zero point or an offset: what GPTQ, AWQ, MLX and compressed-tensors have
//! in common.

use std::ops::Range;

use rayon::prelude::*;

use super::packed::{Packed, Values};
use super::{DAMAGED, Held, Matrix};
use crate::formats::stored::Stored;
use crate::storage::{Affine, DType, Offset, TensorInfo, put_codes};
use crate::{Error, Result};

/// What is taken from codes, or added to their products.
#[derive(Clone)]
pub(super) enum Shift {
    /// The same whole number everywhere.
    Zero(u8),
    /// A whole number for each row and group; some libraries store one less.
    Zeros { packed: Packed, one_less: bool },
    /// Numbers of the scales' type that are added.
    Offsets(Values),
}

/// The tensors of a matrix, checked.
pub(super) struct Grouped {
    /// The tensor with the codes.
    part: String,
    codes: Packed,
    scales: Values,
    shift: Shift,
    columns: usize,
    /// Columns of a group; where groups are not of columns that follow each other, the group of each column.
    group: usize,
    group_of: Option<Vec<u32>>,
    /// The columns, group by group, where the format is one with an order.
    order: Option<Vec<u32>>,
    format: DType,
}

/// What a library says of a matrix.
pub(super) struct Description {
    /// The weight that it is: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// All tensors that hold it, the one with the codes first.
    pub parts: Vec<String>,
    pub codes: Packed,
    pub scales: Values,
    pub shift: Shift,
    pub rows: usize,
    pub columns: usize,
    pub group: usize,
    pub group_of: Option<Vec<u32>>,
}

impl Description {
    /// The matrix, with the format in which it will rest.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming the tensors whose shapes do not fit each other.
    pub fn matrix(self, stored: &Stored) -> Result<Matrix> {
        let Self { name, parts, codes, scales, shift, rows, columns, group, group_of } = self;
        let place = || format!("{}: tensor {}", stored.place(&parts[0]), parts[0]);
        let bad = |problem: String| Err(Error::bad_input(place(), problem, DAMAGED));
        let groups = columns.div_ceil(group.max(1));
        // Packed codes may be padded.
        if codes.size().is_none_or(|[r, c]| r < rows || c < columns) || rows == 0 || columns == 0 || group == 0 {
            return bad(format!(
                "has shape {:?} for {rows} x {columns} codes of {} bits in groups of {group}",
                codes.entry.shape, codes.bits
            ));
        }
        if scales.size() != [rows, groups] {
            return bad(format!("is for {rows} rows of {groups} groups, but its scales have shape {:?}", scales.entry.shape));
        }
        let fits = match &shift {
            Shift::Zero(_) => true,
            Shift::Zeros { packed, .. } => packed.size().is_some_and(|[r, g]| r >= rows && g >= groups),
            Shift::Offsets(offsets) => offsets.size() == [rows, groups] && offsets.dtype() == scales.dtype(),
        };
        if !fits {
            return bad(format!("is for {rows} rows of {groups} groups, but its zero points or offsets are not"));
        }
        if let Some(group_of) = &group_of
            && (group_of.len() != columns || group_of.iter().any(|group| *group as usize >= groups))
        {
            return bad(format!("has an order of columns that is not one of {columns} columns in {groups} groups"));
        }
        let in_order = |group_of: &Vec<u32>| group_of.iter().enumerate().all(|(column, own)| *own as usize == column / group);
        let group_of = group_of.filter(|group_of| !in_order(group_of));
        let offsets: &[Offset] = match (&shift, scales.dtype()) {
            (Shift::Offsets(_), DType::F16) => &[Offset::F16],
            (Shift::Offsets(_), DType::BF16) => &[Offset::BF16],
            (Shift::Zero(_) | Shift::Zeros { .. }, DType::F16) => &[Offset::ZeroPoint, Offset::ZeroPointF16],
            (Shift::Zero(_) | Shift::Zeros { .. }, DType::BF16) => &[Offset::ZeroPoint, Offset::ZeroPointBF16],
            _ => &[],
        };
        let fitting = |block: &usize| (group >= columns || group.is_multiple_of(*block)) && columns.is_multiple_of(*block);
        // Columns that were quantised by activation rest group by group, where groups are of equal size; the input is brought into that order.
        // Rows of embedding and output matrix have none.
        let order = group_of.as_deref().map(|group_of| order_of(group_of, group)).filter(|_| name.contains(".layers."));
        let in_place = match &order {
            None => group_of.is_none(),
            Some(order) => order.is_some(),
        };
        let known = |block| offsets.iter().find_map(|&offset| Affine::new(codes.bits, block, offset));
        let affine = [128, 64, 32].into_iter().filter(|block| in_place && fitting(block)).find_map(known);
        let affine = affine.map(|affine| affine.with_order(group_of.is_some()));
        let order = order.flatten().filter(|_| affine.is_some());
        let info = TensorInfo {
            name,
            shape: vec![rows, columns],
            storage: affine.map_or(DType::F32, DType::Affine),
            bytes: parts.iter().filter_map(|part| stored.get(part)).map(|entry| entry.bytes() as u64).sum(),
        };
        let part = parts[0].clone();
        let held = Grouped { part, codes, scales, shift, columns, group, group_of, order, format: info.storage };
        Ok(Matrix { info, parts, held: Box::new(held) })
    }
}

/// The columns, group by group; `None` if not all groups but the last have `group` columns.
fn order_of(group_of: &[u32], group: usize) -> Option<Vec<u32>> {
    let mut order: Vec<u32> = (0..group_of.len() as u32).collect();
    order.sort_by_key(|&column| group_of[column as usize]);
    let fits = order.iter().enumerate().all(|(at, &column)| group_of[column as usize] as usize == at / group);
    fits.then_some(order)
}

impl Held for Grouped {
    fn part(&self) -> &str {
        &self.part
    }

    fn order(&self) -> Option<Vec<u32>> {
        self.order.clone()
    }

    fn read(&self, stored: &Stored, rows: Range<usize>) -> Result<Vec<u8>> {
        let columns = self.columns;
        let groups = columns.div_ceil(self.group);
        let codes = self.codes.read(stored, rows.clone(), columns)?;
        let codes = match &self.order {
            Some(order) => codes.chunks_exact(columns).flat_map(|row| order.iter().map(|&column| row[column as usize])).collect(),
            None => codes,
        };
        let scales = self.scales.read(stored, rows.clone())?;
        let shifts: Vec<f32> = match &self.shift {
            Shift::Zero(zero) => vec![f32::from(*zero); scales.len()],
            Shift::Zeros { packed, one_less } => {
                let mask = u8::MAX >> (8 - packed.bits);
                let zero = |stored: u8| stored.wrapping_add(u8::from(*one_less)) & mask;
                packed.read(stored, rows, groups)?.into_iter().map(|stored| f32::from(zero(stored))).collect()
            }
            Shift::Offsets(offsets) => offsets.read(stored, rows)?,
        };
        let row_bytes = self.format.file_bytes(columns as u64).unwrap_or(0) as usize;
        let mut stored = vec![0; codes.len() / columns * row_bytes];
        let of_rows = stored.par_chunks_exact_mut(row_bytes).zip(codes.par_chunks_exact(columns));
        of_rows.zip(scales.par_chunks_exact(groups).zip(shifts.par_chunks_exact(groups))).for_each(
            |((stored, codes), (scales, shifts))| match self.format {
                DType::Affine(affine) => {
                    let blocks = stored.chunks_exact_mut(self.format.block_bytes()).zip(codes.chunks_exact(affine.block()));
                    for (number, (block, codes)) in blocks.enumerate() {
                        let group = number * affine.block() / self.group;
                        let (head, packed) = block.split_at_mut(4);
                        head.copy_from_slice(&affine.head(scales[group], shifts[group]));
                        put_codes(codes, affine.bits(), packed);
                    }
                }
                _ => {
                    for (column, (value, code)) in stored.chunks_exact_mut(4).zip(codes).enumerate() {
                        let group = self.group_of.as_ref().map_or(column / self.group, |group_of| group_of[column] as usize);
                        let (scale, shift, code) = (scales[group], shifts[group], f32::from(*code));
                        let number = match self.shift {
                            Shift::Offsets(_) => scale * code + shift,
                            Shift::Zero(_) | Shift::Zeros { .. } => scale * (code - shift),
                        };
                        value.copy_from_slice(&number.to_le_bytes());
                    }
                }
            },
        );
        Ok(stored)
    }
}
