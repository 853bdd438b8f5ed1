//! [`Batch`]: examples packed end to end.

use super::Example;
use std::ops::Range;

/// What the engine takes in one micro-step: the rows of some examples, one after the other, without padding.
///
/// Row `t` is one token. It sees the rows `segment_start[t] ..= t`, so the examples do not see each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// One a row.
    pub input_ids: Vec<u32>,
    /// The place of the row within its own example, from 0.
    pub position: Vec<u32>,
    /// The row where the example of this row begins.
    pub segment_start: Vec<u32>,
    /// The rows whose next token, in the same example, is supervised; ascending.
    pub supervised_rows: Vec<u32>,
    /// For each of `supervised_rows` the id that it is to predict: the label of the row after it.
    pub targets: Vec<u32>,
    /// For each example its number in the data set.
    pub examples: Vec<usize>,
    /// For each example the line that it comes from.
    pub lines: Vec<usize>,
}

impl Batch {
    /// The examples with the numbers `chosen`, in this order.
    ///
    /// # Panics
    /// If a number is not one of `examples`.
    pub fn assemble(examples: &[Example], chosen: &[usize]) -> Self {
        let mut batch = Self::default();
        for &number in chosen {
            let example = &examples[number];
            let start = batch.input_ids.len() as u32;
            batch.examples.push(number);
            batch.lines.push(example.line);
            batch.input_ids.extend(&example.input_ids);
            for position in 0..example.input_ids.len() as u32 {
                batch.position.push(position);
                batch.segment_start.push(start);
            }
            for (row, label) in (start..).zip(example.labels.iter().skip(1)) {
                if let Some(target) = label {
                    batch.supervised_rows.push(row);
                    batch.targets.push(*target);
                }
            }
        }
        batch
    }

    /// For each example its rows.
    pub fn rows_by_example(&self) -> impl Iterator<Item = Range<usize>> {
        self.segment_start.chunk_by(|a, b| a == b).map(|starts| starts[0] as usize..starts[0] as usize + starts.len())
    }

    /// For each row its position, and the length of its example.
    pub fn positions_and_lengths(&self) -> impl Iterator<Item = (u32, usize)> {
        self.rows_by_example()
            .flat_map(|rows| rows.clone().map(move |row| (row, rows.len())))
            .map(|(row, length)| (self.position[row], length))
    }

    /// Tokens.
    pub fn rows(&self) -> usize {
        self.input_ids.len()
    }
}
