//! Numbers as libraries lay them out: codes packed into words along either axis, scales by rows or by columns.

use std::ops::Range;

use rayon::prelude::*;

use super::Scheme;
use crate::formats::stored::{Entry, Stored};
use crate::storage::DType;
use crate::{Error, Result};

/// A dimension of a tensor with two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Axis {
    First,
    Last,
}

/// A matrix of codes in words of 32 bits. Codes follow each other from the lowest bit, across words where their bits do not divide 32.
#[derive(Clone)]
pub(super) struct Packed {
    pub entry: Entry,
    pub bits: usize,
    /// Along which axis of the words the rows of the matrix (its output features) lie, and along which one codes are packed.
    pub rows: Axis,
    pub along: Axis,
    /// Where the eight codes of a word lie in it, if not in their order.
    pub places: Option<[usize; 8]>,
}

impl Packed {
    /// Rows and columns of codes; `None` if it is not of two dimensions.
    pub fn size(&self) -> Option<[usize; 2]> {
        let &[mut first, mut last] = self.entry.shape.as_slice() else { return None };
        let packed = if self.along == Axis::First { &mut first } else { &mut last };
        *packed = packed.checked_mul(32)? / self.bits;
        Some(if self.rows == Axis::First { [first, last] } else { [last, first] })
    }

    /// The codes of these rows, row by row, of `columns` of the columns.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&self, stored: &Stored, rows: Range<usize>, columns: usize) -> Result<Vec<u8>> {
        let &[height, width] = self.entry.shape.as_slice() else { return Ok(Vec::new()) };
        // Lines of words along the rows' axis that hold these rows, and the row with which they begin.
        let (lines, first) = if self.along == self.rows {
            // So many codes begin and end with a word.
            let unit = 32 >> self.bits.trailing_zeros().min(5);
            let (first, last) = (rows.start / unit * unit, rows.end.next_multiple_of(unit));
            // The last words may hold fewer.
            let words = if self.rows == Axis::First { height } else { width };
            (first * self.bits / 32..(last * self.bits / 32).min(words), first)
        } else {
            (rows.clone(), rows.start)
        };
        let (words, width) = match self.rows {
            Axis::First => (stored.read_words(&self.entry, lines, 0..width)?, width),
            Axis::Last => (stored.read_words(&self.entry, 0..height, lines.clone())?, lines.len()),
        };
        let mask = (1_u64 << self.bits) - 1;
        let mut codes = vec![0; rows.len() * columns];
        codes.par_chunks_mut(columns.max(1)).enumerate().for_each(|(row, codes)| {
            let row = rows.start - first + row;
            for (column, code) in codes.iter_mut().enumerate() {
                let (i, j) = if self.rows == Axis::First { (row, column) } else { (column, row) };
                let (line, mut place) = if self.along == Axis::First { (j, i) } else { (i, j) };
                if let Some(places) = &self.places {
                    place = place / 8 * 8 + places[place % 8];
                }
                let word = |number: usize| {
                    let at = if self.along == Axis::First { number * width + line } else { line * width + number };
                    words.get(at).copied().unwrap_or(0)
                };
                let bit = place * self.bits;
                let next = if bit % 32 + self.bits > 32 { u64::from(word(bit / 32 + 1)) << 32 } else { 0 };
                *code = ((u64::from(word(bit / 32)) | next) >> (bit % 32) & mask) as u8;
            }
        });
        Ok(codes)
    }
}

/// A matrix of numbers in a float type: scales, offsets. A vector is one column.
#[derive(Clone)]
pub(super) struct Values {
    pub entry: Entry,
    /// Along which axis the rows of the matrix lie.
    pub rows: Axis,
}

impl Values {
    /// The tensor of this name.
    ///
    /// # Errors
    /// [`Error::BadInput`] if it is not there, or is no matrix or vector of numbers.
    pub fn of(scheme: &Scheme, stored: &Stored, name: &str, rows: Axis) -> Result<Self> {
        Self::of_entry(stored, name, scheme.part(stored, name)?.clone(), rows)
    }

    /// The same of an entry, perhaps under another shape.
    ///
    /// # Errors
    /// As [`Values::of`].
    pub fn of_entry(stored: &Stored, name: &str, entry: Entry, rows: Axis) -> Result<Self> {
        let known = DType::of_name(&entry.kind).is_some_and(|dtype| dtype.block() == 1);
        if !known || !(1..=2).contains(&entry.shape.len()) {
            let problem = format!("is {} of shape {:?}, but scales are a matrix in F16, BF16 or F32", entry.kind, entry.shape);
            return Err(Error::bad_input(format!("{}: tensor {name}", stored.place(name)), problem, super::DAMAGED));
        }
        Ok(Self { entry, rows })
    }

    /// Rows and columns.
    pub fn size(&self) -> [usize; 2] {
        let (first, last) = (self.entry.shape[0], self.entry.row_values());
        if self.rows == Axis::First { [first, last] } else { [last, first] }
    }

    /// The format of the numbers.
    pub fn dtype(&self) -> DType {
        DType::of_name(&self.entry.kind).unwrap_or(DType::F32)
    }

    /// The numbers of these rows, row by row.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&self, stored: &Stored, rows: Range<usize>) -> Result<Vec<f32>> {
        let dtype = self.dtype();
        let (height, width) = (self.entry.shape[0], self.entry.row_values());
        let read = |values: Range<usize>| -> Result<Vec<f32>> {
            let mut numbers = vec![0.0; values.len()];
            let size = dtype.block_bytes();
            dtype.dequantise(&stored.read(&self.entry, values.start * size..values.end * size)?, &mut numbers);
            Ok(numbers)
        };
        if self.rows == Axis::First {
            return read(rows.start * width..rows.end * width);
        }
        let mut numbers = vec![0.0; rows.len() * height];
        for line in 0..height {
            for (row, number) in read(line * width + rows.start..line * width + rows.end)?.into_iter().enumerate() {
                numbers[row * height + line] = number;
            }
        }
        Ok(numbers)
    }
}
