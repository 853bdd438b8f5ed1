//! Which records a run reads, in which order, and how many steps they make.

use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;

use crate::data::source::folder::{self as data_folder, Side};
use crate::data::{self, Dataset, LoadOptions, Sampler, SamplerOptions};
use crate::session::OpenModel;
use crate::train::options::{MOST_STEPS, TrainOptions};
use crate::train::shared::Data;
use crate::{Error, Result};

/// The training data and, if there is any, the held-out data: as `--eval-data` or `--eval-split` say, or as a folder brings it.
pub(super) fn load_data(options: &TrainOptions, model: &OpenModel, max_length: usize) -> Result<Data> {
    let load = |paths: &[PathBuf], eval_split: Option<f64>| -> Result<(Dataset, Option<Dataset>)> {
        let load_options = LoadOptions { max_length, long_records: options.long_records, eval_split };
        let (data, held_out) = data::load_files(paths, &model.tokenizer, model.template.as_ref(), load_options)?;
        for data in std::iter::once(&data).chain(&held_out) {
            data.check_vocabulary(model.tokens)?;
        }
        Ok((data, held_out))
    };
    let brought = data_folder::brought(&options.data)?;
    if let (Some(_), Some(first)) = (options.eval_split, brought.first()) {
        let problem = format!("the folder of --data brings held-out data with it: {}", first.display());
        return Err(Error::bad_input("--eval-split", problem, "leave this option out, or give the training file itself"));
    }
    let (data, held_out) = load(&data_folder::files(&options.data, Side::Train)?, options.eval_split)?;
    let given = match &options.eval_data {
        Some(given) => data_folder::files(given, Side::HeldOut)?,
        None => brought,
    };
    let held_out = if given.is_empty() { held_out } else { Some(load(&given, None)?.0) };
    if options.eval_steps.is_some() && held_out.is_none() {
        let proposal = "give --eval-data FILE or --eval-split SHARE as well, or leave --eval-steps out";
        return Err(Error::bad_input("--eval-steps", "there is nothing to evaluate on", proposal));
    }
    Ok((Arc::new(data), held_out.map(Arc::new)))
}

/// All that [`load_data`] reads of the options.
pub(super) fn data_key(options: &TrainOptions, max_length: usize) -> String {
    let TrainOptions { data, eval_data, eval_split, eval_steps, long_records, .. } = options;
    format!("{:?}", (data, eval_data, eval_split, eval_steps.is_some(), long_records, max_length))
}

pub(super) fn sampler_options(options: &TrainOptions) -> SamplerOptions {
    let &TrainOptions { batch_size, max_length, no_packing, no_shuffle, seed, .. } = options;
    SamplerOptions { batch_size, max_length, packing: !no_packing, shuffle: !no_shuffle, seed }
}

pub(super) fn steps_of_epoch(sampler: &Sampler, batches_a_step: usize, epoch: u64) -> u64 {
    sampler.batches_in_epoch(epoch).div_ceil(batches_a_step) as u64
}

/// Held-out data is read in its own order.
pub(super) fn in_order(options: &TrainOptions) -> SamplerOptions {
    SamplerOptions { shuffle: false, ..sampler_options(options) }
}

/// Records times epochs whose order is worked out to count a run's steps: some seconds.
const MOST_PLACED: u64 = 1_000_000_000;

/// # Errors
/// Bad input: more steps than a run can have, or too many to be counted.
pub(super) fn steps_of_epochs(sampler: &Sampler, options: &TrainOptions, batches_a_step: usize, records: usize) -> Result<u64> {
    let epochs = options.epochs;
    let too_many = |problem: String| {
        let proposal = "give fewer --epochs, or the length of the run as --max-steps (with --lr-schedule constant it can be made longer later)";
        Err(Error::bad_input("--epochs", problem, proposal))
    };
    let steps = |epoch| steps_of_epoch(sampler, batches_a_step, epoch);
    // Only packing in shuffled order makes epochs that differ.
    let total = match !options.no_packing && !options.no_shuffle {
        true if epochs.saturating_mul(records as u64) > MOST_PLACED => {
            return too_many(format!("{epochs} epochs of {records} records are too many to count their steps"));
        }
        true => (0..epochs).into_par_iter().map(steps).sum(),
        false => steps(0).saturating_mul(epochs),
    };
    match total <= MOST_STEPS {
        true => Ok(total),
        false => too_many(format!("{epochs} epochs are {total} steps; a run has {MOST_STEPS} at most")),
    }
}
