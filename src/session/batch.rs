//! How a batch gets to the device.

use crate::data::Batch;
use crate::graph::Counts;
use crate::model::graph::Inputs;
use crate::plan::Executable;

/// Sends a batch to the device, where each token's loss counts `loss_weight`. Returns its row counts.
pub fn write_batch(executable: &Executable, inputs: &Inputs, batch: &Batch, loss_weight: f64) -> Counts {
    executable.write(inputs.input_ids, &batch.input_ids);
    executable.write(inputs.position, &batch.position);
    executable.write(inputs.segment_start, &batch.segment_start);
    if let Some(rope) = inputs.rope_row {
        executable.write(rope.row, &rope.values(batch.positions_and_lengths()));
    }
    executable.write(inputs.rows, &batch.supervised_rows);
    if let (Some(targets), Some(weight)) = (inputs.targets, inputs.loss_weight) {
        executable.write(targets, &batch.targets);
        executable.write(weight, &[loss_weight as f32]);
    }
    Counts { tokens: batch.rows(), supervised: batch.supervised_rows.len() }
}
