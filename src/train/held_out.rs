//! The loss on held-out data between the steps.

use super::interrupt::Interrupt;
use crate::Result;
use crate::data::Batch;
use crate::ranks::Ranks;
use crate::session::evaluate::{Evaluator, TokenLosses};

/// The held-out data, and the graph that evaluates it with the adapter as it is.
pub(super) struct HeldOut {
    pub evaluator: Evaluator,
    pub batches: Vec<Batch>,
}

impl HeldOut {
    /// Mean of -log p over all supervised tokens, of which each rank measures its part. `None`: someone asked to stop.
    pub fn loss(&mut self, ranks: &Ranks, interrupt: &Interrupt) -> Result<Option<f64>> {
        let Self { evaluator, batches } = self;
        // Batch by batch, so that the sum does not depend on who measures what.
        let mut sums = vec![0.0; batches.len()];
        let mut is_cut_short = false;
        for (number, batch) in ranks.mine(batches) {
            is_cut_short = interrupt.requested();
            if is_cut_short {
                break;
            }
            sums[number] = TokenLosses::of(&evaluator.token_nll(batch)?).sum;
        }
        if ranks.any(is_cut_short) {
            return Ok(None);
        }
        ranks.sum_few(&mut sums);
        let tokens = batches.iter().map(|batch| batch.targets.len()).sum();
        Ok(Some(TokenLosses { sum: sums.iter().sum(), tokens }.mean()))
    }
}
