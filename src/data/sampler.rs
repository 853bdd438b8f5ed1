//! [`Sampler`]: which examples go into which batch.
//!
//! The plan of an epoch follows from the lengths of the examples, the options and the number of the epoch, and from nothing
//! else: no state beside a [`Position`], so a run can be continued anywhere and sees what the uninterrupted run would see.
//! Each example is in exactly one batch of an epoch and is never cut.
//!
//! With packing, a batch holds up to `batch_size * max_length` tokens, and examples go into the first batch that has room
//! for them, out of the few that are still open (a larger choice would fill better and shuffle worse). Without shuffling only
//! one batch is open, so that the order of the file is kept. Without packing, a batch is `batch_size` examples.

use serde::{Deserialize, Serialize};

use super::{Batch, Dataset, Example};
use crate::{Error, Result};

/// How many batches are open at a time when examples are packed in shuffled order.
const OPEN_BATCHES: usize = 8;

/// How examples are grouped and ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplerOptions {
    /// Examples in a batch or, with packing, rows of `max_length` tokens.
    pub batch_size: usize,
    /// Tokens. No example is longer.
    pub max_length: usize,
    pub packing: bool,
    pub shuffle: bool,
    pub seed: u64,
}

/// The next batch: its number within an epoch. What a checkpoint stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub epoch: u64,
    pub index: usize,
}

/// Gives batches without end, epoch after epoch.
#[derive(Clone, Debug)]
pub struct Sampler {
    lengths: Vec<usize>,
    options: SamplerOptions,
    position: Position,
    /// The plan of `position.epoch`: for each batch the numbers of its examples.
    plan: Vec<Vec<usize>>,
}

impl Sampler {
    /// Begins at the first batch of epoch 0.
    ///
    /// # Errors
    /// A batch size of 0, or an example longer than `max_length`.
    pub fn new(dataset: &Dataset, options: SamplerOptions) -> Result<Self> {
        if options.batch_size == 0 {
            return Err(Error::bad_input("--batch-size", "0 sequences make no batch", "use 1 or more"));
        }
        if let Some(example) = dataset.examples.iter().find(|example| example.input_ids.len() > options.max_length) {
            return Err(Error::bad_input(
                dataset.report.place(example.line),
                format!("the record has {} tokens, but --max-length is {}", example.input_ids.len(), options.max_length),
                "load the data with the same --max-length",
            ));
        }
        let lengths = dataset.examples.iter().map(|example| example.input_ids.len()).collect();
        let mut sampler = Self { lengths, options, position: Position::default(), plan: Vec::new() };
        sampler.plan = sampler.plan_of(0);
        Ok(sampler)
    }

    /// Where the next batch stands.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Continues at `position`, as a checkpoint has it.
    ///
    /// # Errors
    /// The epoch has no such batch: the data or the options are not those of the checkpoint.
    pub fn seek(&mut self, position: Position) -> Result<()> {
        let plan = self.plan_of(position.epoch);
        if position.index >= plan.len() {
            return Err(Error::bad_input(
                "--resume",
                format!(
                    "the checkpoint stands at batch {} of an epoch, but this data gives {} batches",
                    position.index + 1,
                    plan.len()
                ),
                "resume with the data, --batch-size, --max-length and packing of the run that is continued",
            ));
        }
        (self.plan, self.position) = (plan, position);
        Ok(())
    }

    /// The next batch; after the last one of an epoch comes the first one of the next.
    ///
    /// `examples`: those of the data set that the sampler was made for.
    pub fn next_batch(&mut self, examples: &[Example]) -> Batch {
        let batch = Batch::assemble(examples, &self.plan[self.position.index]);
        self.position.index += 1;
        if self.position.index == self.plan.len() {
            self.position = Position { epoch: self.position.epoch + 1, index: 0 };
            self.plan = self.plan_of(self.position.epoch);
        }
        batch
    }

    /// How many batches `epoch` has. With packing in shuffled order, epochs can differ by some.
    pub fn batches_in_epoch(&self, epoch: u64) -> usize {
        self.plan_of(epoch).len()
    }

    /// No batch of any epoch has more rows.
    pub fn max_rows(&self) -> usize {
        if self.options.packing {
            return self.lengths.iter().sum::<usize>().min(self.options.batch_size.saturating_mul(self.options.max_length));
        }
        let mut longest = self.lengths.clone();
        longest.sort_unstable_by(|a, b| b.cmp(a));
        longest.iter().take(self.options.batch_size).sum()
    }

    /// For each batch of `epoch` the numbers of its examples.
    pub fn plan_of(&self, epoch: u64) -> Vec<Vec<usize>> {
        let order = self.order_of(epoch);
        if !self.options.packing {
            return order.chunks(self.options.batch_size).map(<[usize]>::to_vec).collect();
        }
        let budget = self.options.batch_size.saturating_mul(self.options.max_length);
        let open_batches = if self.options.shuffle { OPEN_BATCHES } else { 1 };
        // Batches in the order in which they were begun, with the tokens they hold; those before `closed` take no more.
        let mut batches: Vec<(usize, Vec<usize>)> = Vec::new();
        let mut closed = 0;
        for number in order {
            let length = self.lengths[number];
            match batches[closed..].iter_mut().find(|(tokens, _)| tokens.saturating_add(length) <= budget) {
                Some((tokens, members)) => {
                    *tokens += length;
                    members.push(number);
                }
                None => {
                    batches.push((length, vec![number]));
                    closed = batches.len().saturating_sub(open_batches);
                }
            }
        }
        batches.into_iter().map(|(_, members)| members).collect()
    }

    fn order_of(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.lengths.len()).collect();
        if self.options.shuffle {
            let mut random = SplitMix64(mixed(self.options.seed) ^ mixed(!epoch));
            // Fisher and Yates.
            for last in (1..order.len()).rev() {
                order.swap(last, random.below(last as u64 + 1) as usize);
            }
        }
        order
    }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014). Ours, so that an order never changes with
/// the version of a library.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed(self.0)
    }

    /// Uniform in `0..bound`, by rejection of the incomplete last stretch.
    fn below(&mut self, bound: u64) -> u64 {
        let unusable = (u64::MAX % bound + 1) % bound;
        loop {
            let number = self.next();
            if number <= u64::MAX - unusable {
                return number % bound;
            }
        }
    }
}

fn mixed(seed: u64) -> u64 {
    let seed = (seed ^ (seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let seed = (seed ^ (seed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    seed ^ (seed >> 31)
}
