//! Going on after a lost device, with the numbers of a run that never lost one.
//!
//! A device that is lost takes the adapter, its moments and half a step with it. What is left is what `--resume` goes on from: the last
//! checkpoint, or the beginning of the run. All randomness is counter-based and two runs on one device are bitwise equal, so the steps
//! since then come out as they did before. They are done again: metrics.jsonl is cut back to the checkpoint and grows again.

use super::checkpoint::RunState;
use crate::gpu::Identity;
use crate::kernel::Tuning;
use crate::plan::Tuned;
use crate::train::prepare::{Engine, Looking, Prepared};
use crate::train::{Outcome, Run};
use crate::{Error, Result, session};
use std::sync::Arc;

/// How often a device is opened again before the run has got any further.
const MOST_LOSSES: u32 = 3;

impl Run<'_> {
    /// [`Run::train`], on through lost devices: each is opened again, the weights are sent there, and the run goes on from its last
    /// checkpoint. Also gives the run back, which holds the weights on the device that was opened last.
    ///
    /// # Errors
    /// As [`Run::train`]; [`Error::DeviceLost`] when the device was lost several times before the run got any further. Failed: the
    /// device is not there any more.
    pub fn train_to_the_end(mut self) -> Result<(Outcome, Self)> {
        let mut patience = Patience { furthest: self.state.step, losses: 0 };
        loop {
            match self.train() {
                Ok(outcome) => return Ok((outcome, self)),
                // The other ranks are in the middle of a step that this one has lost: all begin again from the checkpoint.
                Err(lost @ Error::DeviceLost { .. }) if self.prepared.ranks.is_alone() => {
                    self = self.reopened(lost, &mut patience)?
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The run on its device, opened again, where its last checkpoint stands.
    fn reopened(self, mut lost: Error, patience: &mut Patience) -> Result<Self> {
        let Tuned { device, tuning } = self.trainer.weights().place();
        let device = device.identity();
        let Self {
            prepared,
            trainer,
            held_out,
            answering,
            sampler,
            state,
            metrics,
            mut progress,
            interrupt,
            unsettled,
            profile,
            watches,
            lock,
            ..
        } = self;
        // What the lost device holds is freed before the new one needs as much. The sampler and the log of metrics start anew.
        drop((trainer, held_out, answering, sampler, metrics, unsettled));
        let engine = loop {
            patience.lose(state.step, lost)?;
            progress.note(&format!("the GPU was lost in step {}; opening it again", state.step + 1));
            match open(&device, &tuning, &prepared, (&mut progress, &interrupt)) {
                Err(again @ Error::DeviceLost { .. }) => lost = again,
                opened => break opened?,
            }
        };
        let mut output = prepared.stand(lock, state.options, true)?;
        // Also where there is no checkpoint that names them.
        let RunState { kernels, base_weights, template_time, may_replace, .. } = state;
        output.state = RunState { kernels, base_weights, template_time, may_replace, ..output.state };
        progress.note(&format!("going on after step {} of {}", output.steps_done(), prepared.total_steps));
        Ok(Self { profile, watches, ..prepared.start_with(engine, output, interrupt, progress)? })
    }
}

fn open(device: &Identity, tuning: &Tuning, prepared: &Prepared, looking: Looking) -> Result<Engine> {
    let place = Tuned { device: Arc::new(device.open()?), tuning: tuning.clone() };
    let weights = session::send(prepared.model, place, prepared.weight_type(), &());
    weights.and_then(|weights| prepared.engine(weights, false, Some(looking))).map_err(|error| prepared.explained(error))
}

/// Keeps a run from losing its device for ever: some batch may be too much for it.
struct Patience {
    /// Most steps done at any loss.
    furthest: u64,
    /// Losses since the run got that far.
    losses: u32,
}

impl Patience {
    /// Counts a loss after `steps` whole steps.
    ///
    /// # Errors
    /// `lost`, if there were too many.
    fn lose(&mut self, steps: u64, lost: Error) -> Result<()> {
        if steps > self.furthest {
            *self = Self { furthest: steps, losses: 0 };
        }
        self.losses += 1;
        match (self.losses > MOST_LOSSES, lost) {
            (true, Error::DeviceLost { place, problem, .. }) => Err(Error::DeviceLost {
                place,
                problem: format!("{problem}, {} times before step {} was done", self.losses, self.furthest + 1),
                proposal:
                    "update the graphics driver and go on with --resume, or start anew in another --out and give the GPU less \
                           at a time (--batch-size, --max-length)"
                        .to_string(),
            }),
            (true, other) => Err(other),
            (false, _) => Ok(()),
        }
    }
}
