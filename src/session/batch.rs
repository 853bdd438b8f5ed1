//! How a batch gets to the device.

use crate::data::{Batch, Dataset};
use crate::graph::Counts;
use crate::model::graph::Inputs;
use crate::plan::Executable;

/// Sends a batch to the device, where each token's loss counts `loss_weight`. Returns its row counts.
pub fn write_batch(executable: &Executable, inputs: &Inputs, batch: &Batch, loss_weight: f64) -> Counts {
    executable.write(inputs.input_ids, &batch.input_ids);
    executable.write(inputs.position, &batch.position);
    executable.write(inputs.segment_start, &batch.segment_start);
    write_rotation(executable, inputs, batch.positions_and_lengths());
    executable.write(inputs.rows, &batch.supervised_rows);
    if let (Some(targets), Some(weight)) = (inputs.targets, inputs.loss_weight) {
        executable.write(targets, &batch.targets);
        executable.write(weight, &[loss_weight as f32]);
    }
    Counts { tokens: batch.rows(), supervised: batch.supervised_rows.len() }
}

/// Sends what a rotation that looks at the length of a sequence needs: of each row its position, and the length of its sequence.
pub fn write_rotation(executable: &Executable, inputs: &Inputs, rows: impl Iterator<Item = (u32, usize)>) {
    let Some(rope) = inputs.rope_row else { return };
    let (row, values, table) = rope.values(rows);
    executable.write(row, &values);
    if let Some((table, values)) = table {
        executable.write(table, &values);
    }
}

/// Tokens that go through the model together where nothing is trained, if the records are shorter than that.
pub const TOKENS_A_BATCH: usize = 1024;

/// Examples by number in the order of the file, as many together as fit [`TOKENS_A_BATCH`].
pub fn in_order(data: &Dataset) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut tokens = usize::MAX;
    for (at, example) in data.examples.iter().enumerate() {
        let length = example.input_ids.len();
        match batches.last_mut() {
            Some(batch) if tokens + length <= TOKENS_A_BATCH => {
                batch.push(at);
                tokens += length;
            }
            _ => {
                batches.push(vec![at]);
                tokens = length;
            }
        }
    }
    batches
}

/// Tokens of the largest of these batches; 1 if there is none.
pub fn most_tokens(data: &Dataset, batches: &[Vec<usize>]) -> usize {
    let tokens = |batch: &Vec<usize>| batch.iter().map(|&at| data.examples[at].input_ids.len()).sum();
    batches.iter().map(tokens).max().unwrap_or(1)
}
