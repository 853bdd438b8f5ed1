//! The sum of a step's gradients, over its batches and over the ranks that have them.
//!
//! Each token of a step has the same weight in its batch's gradients, 1 / supervised tokens of the whole step, so the ranks' gradients
//! are added up as they are. Each rank adds up its own batches on its device first. Then
//!
//! * usually the ranks' sums go through the communicator's sum, which takes the order that is fast on this network, and
//!   rounds otherwise than one process does. They go in groups of some layers, the upper ones first, while the device does the backward
//!   pass of those below: [`Trainer::complete_summed`];
//! * with `--deterministic-sum` each batch's gradients go from their rank to all others when the batch is done, and
//!   every device adds them in the order of the batches by the kernel with which one process does, so that the bits are those of one
//!   process.
//!
//! Groups and their order are those of the first rank, whatever the devices are: all ranks make the same calls. Who has no batch in a step
//! gives zeros for the same groups.

use super::trainer::Trainer;
use crate::Result;
use crate::gpu::Readback;
use crate::ranks::Ranks;

/// Bytes that go through a sum together at least, but for the last group, whose sum nothing hides: a layer or a few. Networks carry them in
/// a time beside which the latency of a call is small, and are done with one group about when the device has the next.
pub const GROUP: usize = 4 << 20;

/// See the [module](self).
pub struct Sum {
    ranks: Ranks,
    order: Order,
}

enum Order {
    Alone,
    Fast,
    /// With the gradients of this rank's batches of the step so far, laid out as the adapter.
    OfBatches(Vec<Vec<f32>>),
}

impl Sum {
    /// `deterministic`: with the bits of one process; otherwise `trainer` takes groups of at least `least` bytes ([`GROUP`]). All ranks
    /// call it.
    ///
    /// # Errors
    /// If the device cannot hold what adds up the groups.
    pub fn new(ranks: Ranks, deterministic: bool, least: usize, trainer: &mut Trainer) -> Result<Self> {
        let order = match deterministic {
            _ if ranks.is_alone() => Order::Alone,
            true => Order::OfBatches(Vec::new()),
            false => {
                trainer.sum_in(ranks.told(trainer.groups(least))?)?;
                Order::Fast
            }
        };
        Ok(Self { ranks, order })
    }

    /// Whether a device has more than one thing to add up in a step of so many batches.
    pub(super) fn accumulates(ranks: &Ranks, deterministic: bool, batches_a_step: usize) -> bool {
        let added = if deterministic { batches_a_step } else { batches_a_step.div_ceil(ranks.count()) };
        added > 1
    }

    /// Completes this rank's batch `number` of a step's `batches`, which `trainer` has begun. The loss is to be waited for.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn complete(&mut self, trainer: &mut Trainer, number: usize, batches: usize) -> Result<Readback> {
        let count = self.ranks.count();
        let (first, last) = (number < count, number + count >= batches);
        match &mut self.order {
            Order::Fast if last => trainer.complete_summed(first, |group, left| {
                tracing::debug!("a sum of {} gradients, with {left} dispatches of the batch to come", group.len());
                self.ranks.sum(group);
            }),
            Order::Alone | Order::Fast => trainer.complete(first),
            Order::OfBatches(own) => {
                let loss = trainer.complete(first)?;
                own.push(trainer.gradients()?);
                Ok(loss)
            }
        }
    }

    /// All of a step's `batches` are done: now every rank's `trainer` gets the gradients of the step, if it has them not yet.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn finish(&mut self, trainer: &mut Trainer, batches: usize) -> Result<()> {
        match &mut self.order {
            // In a short last step of an epoch a rank may be without a batch.
            Order::Fast if self.ranks.rank() >= batches => trainer.sum_without_batch(|group| self.ranks.sum(group)),
            Order::Alone | Order::Fast => (),
            Order::OfBatches(own) => {
                let elements = trainer.adapter().parameters().bytes() / size_of::<f32>();
                let mut own = std::mem::take(own).into_iter();
                for batch in 0..batches {
                    let own = if self.ranks.is_mine(batch) { own.next() } else { None };
                    let mut gradients = own.unwrap_or_else(|| vec![0.0; elements]);
                    self.ranks.share(&mut gradients, self.ranks.owner(batch));
                    trainer.add(&gradients, batch == 0)?;
                }
            }
        }
        Ok(())
    }
}
