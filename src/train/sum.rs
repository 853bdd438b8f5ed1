//! The sum of a step's gradients, over its batches and over the ranks that have them.
//!
//! Each token of a step has the same weight in its batch's gradients, 1 / supervised tokens of the whole step, so the ranks' gradients
//! are added up as they are. Each rank adds up its own batches on its device first. Then
//!
//! * [usually](Order::Fast) the ranks' sums go through the communicator's sum, which takes the order that is fast on this network: that
//!   is one sum of the adapter's size, and rounds otherwise than one process does;
//! * with `--deterministic-sum` [each batch's gradients](Order::OfBatches) go from their rank to all others, and every device adds them in
//!   the order of the batches by the kernel with which one process does, so that the bits are those of one process.
//!
//! Neither overlaps with the backward pass: the gradients are read when the step's last batch is done.

use super::trainer::Trainer;
use crate::Result;
use crate::ranks::Ranks;

/// See the [module](self).
pub(super) struct Sum {
    ranks: Ranks,
    order: Order,
}

enum Order {
    Fast,
    /// With the gradients of this rank's batches of the step so far, laid out as the adapter.
    OfBatches(Vec<Vec<f32>>),
}

impl Sum {
    /// `deterministic`: with the bits of one process.
    pub(super) fn new(ranks: Ranks, deterministic: bool) -> Self {
        let order = if deterministic && !ranks.is_alone() { Order::OfBatches(Vec::new()) } else { Order::Fast };
        Self { ranks, order }
    }

    /// Whether a device has more than one thing to add up in a step of so many batches.
    pub(super) fn accumulates(ranks: &Ranks, deterministic: bool, batches_a_step: usize) -> bool {
        let added = if deterministic { batches_a_step } else { batches_a_step.div_ceil(ranks.count()) };
        added > 1
    }

    /// Another batch of this rank is done; `trainer` has its gradients.
    ///
    /// # Errors
    /// If the device is lost.
    pub(super) fn took(&mut self, trainer: &Trainer) -> Result<()> {
        if let Order::OfBatches(own) = &mut self.order {
            own.push(trainer.gradients()?);
        }
        Ok(())
    }

    /// All of a step's `batches` are done: gives every rank's `trainer` the gradients of the step.
    ///
    /// # Errors
    /// If the device is lost.
    pub(super) fn finish(&mut self, trainer: &mut Trainer, batches: usize) -> Result<()> {
        if self.ranks.is_alone() {
            return Ok(());
        }
        let elements = trainer.adapter().parameters().bytes() / size_of::<f32>();
        match &mut self.order {
            Order::Fast => {
                // In a short last step of an epoch a rank may be without a batch, and has the gradients of the step before.
                let has_some = (0..batches).any(|batch| self.ranks.is_mine(batch));
                let mut gradients = if has_some { trainer.step_gradients()? } else { vec![0.0; elements] };
                self.ranks.sum(&mut gradients);
                trainer.set_step_gradients(&gradients);
            }
            Order::OfBatches(own) => {
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
