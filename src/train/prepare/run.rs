//! From what is prepared to a run on a device.

use super::records::in_order;
use super::started::Looking;
use super::{Output, Prepared};
use crate::Result;
use crate::data::{Batch, Sampler};
use crate::formats::peft::AdapterTensor;
use crate::model::weights::DeviceWeights;
use crate::session::prefix_cache::Kept;
use crate::train::Run;
use crate::train::checks::Answering;
use crate::train::held_out::HeldOut;
use crate::train::interrupt::Interrupt;
use crate::train::keep::beginning::{self, Standing};
use crate::train::keep::checkpoint::{Checkpoint, RunState};
use crate::train::metrics::MetricsLog;
use crate::train::progress::Progress;
use crate::train::sum::{GROUP, Sum};
use crate::train::tell::tensorboard::TensorBoard;
use crate::train::tell::{self, about::About};
use crate::train::trainer::Trainer;
use std::sync::Arc;

/// What of a run is on the device.
pub(in crate::train) struct Engine {
    pub(in crate::train) trainer: Trainer,
    held_out: Option<HeldOut>,
    answering: Option<Answering>,
    /// See [`crate::formats::peft::AdapterConfig::taken_out`].
    taken_out: Vec<AdapterTensor>,
}

impl<'m> Prepared<'m> {
    /// Puts the run on the device that holds the weights.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) with the plan's figures.
    pub fn start(
        self,
        weights: Arc<DeviceWeights>,
        output: Output,
        interrupt: Interrupt,
        mut progress: Progress,
    ) -> Result<Run<'m>> {
        let looking = Some((&mut progress, &interrupt));
        let engine = self.engine(weights, output.steps_done() > 0, looking).map_err(|error| self.explained(error));
        let engine = self.ranks.agree(engine)?;
        let mut run = self.start_with(engine, output, interrupt, progress)?;
        if run.prepared.options.tensorboard && run.prepared.ranks.is_first() {
            let board = TensorBoard::begin(&run.prepared.options.out, run.state.step)?;
            run.watched_by(Box::new(board));
        }
        Ok(run)
    }

    /// What of the run is on the device, as it is before the first step; of a run that `goes_on` without the adapter, which comes from
    /// the checkpoint. Without `looking` no start looks at the data.
    pub(in crate::train) fn engine(
        &self,
        weights: Arc<DeviceWeights>,
        goes_on: bool,
        looking: Option<Looking>,
    ) -> Result<Engine> {
        let (options, config) = (&self.options, &self.model.files.config);
        let (on_device, taken_out) = self.started(&weights, goes_on, looking)?;
        let elsewhere = std::env::temp_dir();
        // A rank that does not write there may be on a machine that has not this folder.
        let folder = if self.ranks.is_first() { &options.out } else { &elsewhere };
        let kept = Kept { shelf: &self.shared.prefixes, folder };
        let cache = |store, data, max_tokens| self.prefix.open(store, data, kept, &weights, config, max_tokens);
        let shape = self.planner.shape();
        let below_step = cache(&self.prefix.train, &self.data, shape.max_tokens)?;
        let trainer = Trainer::new(weights.clone(), config, on_device, shape, options.seed, below_step)?;
        let held_out = match &self.eval_data {
            Some(held_out) => {
                let sampler = Sampler::new(held_out, in_order(options))?;
                let below = cache(&self.prefix.held_out, held_out, sampler.max_rows())?;
                let evaluator = trainer.evaluator(config, sampler.max_rows(), below)?;
                let batches = sampler.plan_of(0).iter().map(|chosen| Batch::assemble(&held_out.examples, chosen)).collect();
                Some(HeldOut { evaluator, batches })
            }
            None => None,
        };
        let asks = self.checks.as_ref().filter(|_| self.ranks.is_first());
        let answering = asks.map(|checks| checks.answering(self.model, &weights, trainer.adapter(), &self.turn_ends()));
        Ok(Engine { trainer, held_out, answering: answering.transpose()?, taken_out })
    }

    /// Takes a fresh engine to where the run stands.
    pub(in crate::train) fn start_with(
        mut self,
        engine: Engine,
        output: Output,
        interrupt: Interrupt,
        progress: Progress,
    ) -> Result<Run<'m>> {
        let Engine { mut trainer, held_out, answering, taken_out } = engine;
        self.adapter.set_taken_out(taken_out);
        let Output { lock, mut state, checkpoint, saved, begins, aside } = output;
        let out = &self.options.out;
        let ranks = self.ranks.clone();
        let weights = trainer.weights().digest().to_string();
        self.check_alike([("the base model's weights (content)".to_string(), weights.clone())].into())?;
        state.check_base_weights(out, &weights)?;
        if begins {
            beginning::make_way(out)?;
        }
        if ranks.is_first() {
            beginning::put_aside(&aside)?;
            beginning::make_way_for_notes(out, &self.notes())?;
        }
        let mut sampler = self.sampler.clone();
        if let Some(Checkpoint { state, adapter, moments: [first, second], taken_out }) = checkpoint {
            trainer.adapter().set_frozen(&self.placement.frozen_of(&taken_out))?;
            self.adapter.set_taken_out(taken_out);
            trainer.restore(&adapter, [&first, &second], state.batches);
        }
        if state.step > 0 {
            sampler.seek(state.position)?;
        }
        trainer.share(&ranks)?;
        let standing = Standing::of(out);
        let written = if ranks.is_first() { Some(MetricsLog::open(out, state.step)?) } else { None };
        let last = ranks.told(written.as_ref().and_then(|log| log.history().last().cloned()))?;
        let metrics = written.unwrap_or_else(|| MetricsLog::of_another_rank(out, last));
        if ranks.is_first() {
            self.about(&state, &trainer).write(out);
        }
        let sum = Sum::new(ranks, self.options.deterministic_sum, GROUP, &mut trainer)?;
        let saved = saved.map(|folder| (state.step, folder));
        Ok(Run {
            prepared: self,
            trainer,
            sum,
            held_out,
            answering,
            sampler,
            state,
            metrics,
            progress,
            interrupt,
            watches: Vec::new(),
            unsettled: None,
            since: std::time::Instant::now(),
            profile: None,
            saved,
            lock,
            standing,
        })
    }

    /// What the run is, for who looks at its folder.
    fn about(&self, state: &RunState, trainer: &Trainer) -> About {
        About {
            model: self.options.model.clone(),
            data: self.options.data.iter().map(|path| path.display().to_string()).collect(),
            device: trainer.device().info.name.clone(),
            total_steps: self.total_steps,
            first_step: state.step,
            started: tell::now() as u64,
            memory: self.memory(),
            parameters: self.trained_parameters(),
            options: state.options.clone(),
        }
    }
}
