//! Training: the loop, and what stands around it.
//!
//! * this page: [`Run::train`], the algorithm; one step is forward and backward of a few batches, then AdamW;
//! * [`ask`], [`prepare`]: what the user asks for, checked against model and data before the GPU is touched;
//! * [`shared`]: what runs beside each other have in common; [`step`], [`trainer`], `groups`: a step on the GPU; [`sum`]: over several ranks;
//! * [`memory`], [`budget`], [`fit`], [`needs`]: what a run occupies there; [`rate`]: how fast it is;
//! * [`eva`]: a start that looks at the data; [`schedule`]: the learning rate; [`keep`], [`interrupt`]: what makes a run survive;
//! * `checks`, `held_out`: questions that are answered between the steps, and the loss on data that is held out; `alive`: whether a run still learns;
//! * [`metrics`], [`curve`], [`progress`], [`tell`]: what it tells.

mod alive;
pub mod ask;
pub mod budget;
mod checks;
pub mod curve;
pub mod eva;
pub mod fit;
mod groups;
mod held_out;
pub mod interrupt;
pub mod keep;
pub mod memory;
pub mod metrics;
pub mod needs;
pub mod prepare;
pub mod progress;
pub mod rate;
pub mod schedule;
pub mod shared;
pub mod step;
pub mod sum;
pub mod tell;
pub mod trainer;

pub use ask::options;
pub use keep::{checkpoint, lock, recovery};

use std::path::PathBuf;
use std::time::Instant;

use checkpoint::{Checkpoint, RunState};
use checks::Answering;
use curve::{CURVE_FILE, loss_curve};
use held_out::HeldOut;
use interrupt::Interrupt;
use keep::beginning::{self, Standing};
use keep::sums;
use metrics::{MetricsLog, StepMetrics};
use options::TrainOptions;
use prepare::Prepared;
use progress::Progress;
use sum::Sum;
use tell::Watch;
use trainer::Trainer;

use crate::Result;
use crate::data::{Batch, Sampler};
use crate::formats::atomic;
use crate::gpu::Readback;
use crate::ops::adamw::Hyper;
use crate::plan::timings;

/// A training run on a device, at some step; made by [`Prepared::start`].
pub struct Run<'m> {
    prepared: Prepared<'m>,
    trainer: Trainer,
    sum: Sum,
    held_out: Option<HeldOut>,
    answering: Option<Answering>,
    sampler: Sampler,
    state: RunState,
    metrics: MetricsLog,
    progress: Progress,
    interrupt: Interrupt,
    /// Who else wants to see each step.
    watches: Vec<Box<dyn Watch + 'm>>,
    /// The step whose numbers are still on their way.
    unsettled: Option<Unsettled>,
    /// When the numbers of the step before that arrived.
    since: Instant,
    profile: Option<Profile>,
    /// The step of the newest checkpoint, and its folder.
    saved: Option<(u64, PathBuf)>,
    /// `None`: another rank has it.
    lock: Option<lock::FolderLock>,
    standing: Standing,
}

/// A step that has been submitted, until its numbers arrive. By then the next step has been begun, so that the device never waits
/// for the host.
struct Unsettled {
    step: u64,
    /// Of all ranks.
    batches: Vec<Batch>,
    supervised_tokens: usize,
    learning_rate: f64,
    /// Of each batch of this rank its part of the loss, and its load balancing loss where that is a part of it.
    losses: Vec<(Readback, Option<Readback>)>,
    grad_norm: Readback,
}

/// A wish to see one step by kernel.
struct Profile {
    step: u64,
    /// Where the trace goes.
    path: PathBuf,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All steps are done, the adapter is saved in the output folder.
    Finished { steps: u64, last_loss: Option<f64>, eval_loss: Option<f64> },
    /// Someone asked to stop after this many steps; the checkpoint is what to go on from (`None`: no step was done).
    Interrupted { steps: u64, checkpoint: Option<PathBuf> },
}

impl<'m> Run<'m> {
    /// Trains until all steps are done or someone asks to stop. [`Run::train_to_the_end`] is the same on a device that may be lost.
    ///
    /// # Errors
    /// Failed: a loss, a gradient or the adapter is not finite (with the step and the records), or the disk is full.
    /// [`Error::DeviceLost`](crate::Error::DeviceLost). Checkpoints are good in every case.
    pub fn train(&mut self) -> Result<Outcome> {
        self.catch_up()?;
        if self.owes() {
            return self.pause();
        }
        self.since = Instant::now();
        while self.state.step < self.prepared.total_steps {
            // All ranks stop at the same place, or they would wait for each other.
            if self.prepared.ranks.any(self.interrupt.requested()) {
                return self.pause();
            }
            let step = self.state.step + 1;
            let batches = self.batches_of_a_step();
            let supervised_tokens: usize = batches.iter().map(|batch| batch.targets.len()).sum();
            let profile = self.profile.take_if(|profile| profile.step == step);
            if profile.is_some() {
                self.trainer.start_profile();
            }

            // Each batch adds its gradient. Every supervised token of the step has the same weight, whichever batch it is in.
            let mut losses = Vec::with_capacity(batches.len());
            for (number, batch) in self.prepared.ranks.mine(&batches) {
                if self.prepared.ranks.is_alone() && self.interrupt.requested() {
                    return self.pause();
                }
                self.trainer.count_from(self.state.batches.wrapping_add(number as u32));
                self.trainer.begin(batch, 1.0 / supervised_tokens as f64)?;
                // The device has work now; so the numbers of the step before cost it no pause.
                self.settle()?;
                let loss = self.sum.complete(&mut self.trainer, number, batches.len())?;
                losses.push((loss, self.trainer.load_balancing_loss()?));
            }
            self.settle()?;
            self.sum.finish(&mut self.trainer, batches.len())?;

            let learning_rate = self.prepared.schedule.learning_rate(step);
            let grad_norm = self.trainer.update(&self.hyper(learning_rate, step))?;
            self.state.step = step;
            self.state.position = self.sampler.position();
            self.state.batches = self.state.batches.wrapping_add(batches.len() as u32);
            self.unsettled = Some(Unsettled { step, batches, supervised_tokens, learning_rate, losses, grad_norm });
            if let Some(profile) = profile {
                self.tell_profile(&profile);
            }
            let (looks, saves) = (self.evaluates() || self.asks(), self.is_due(self.prepared.options.save_steps));
            if looks || saves {
                self.settle()?;
            }
            if self.owes() {
                return self.pause();
            }
            if saves {
                self.save()?;
            }
            // What else was done is not the next step's time.
            if looks || saves {
                self.since = Instant::now();
            }
        }
        self.finish()
    }

    /// Times every dispatch of the second step from here on (of the first, if there is no second), shows a table by kernel and writes a
    /// Chrome trace to `path`. The step computes what it would compute anyway.
    pub fn profile(&mut self, path: PathBuf) {
        if self.trainer.can_profile() {
            self.profile = Some(Profile { step: (self.state.step + 2).min(self.prepared.total_steps), path });
        } else {
            self.progress.note("no profile: this device has no timestamp queries; training goes on without");
        }
    }

    /// Shows every step from now on to `watch`, too.
    pub fn watched_by(&mut self, watch: Box<dyn Watch + 'm>) {
        self.watches.push(watch);
    }

    /// Steps done so far and steps in all.
    pub fn steps(&self) -> (u64, u64) {
        (self.state.step, self.prepared.total_steps)
    }

    /// What each step so far did, also those before a resume.
    pub fn history(&self) -> &[StepMetrics] {
        self.metrics.history()
    }

    /// The engine, with the adapter as it is now.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// The next batches of all ranks; those of the last step of an epoch may be fewer, so that an epoch is a whole number of steps.
    fn batches_of_a_step(&mut self) -> Vec<Batch> {
        let epoch = self.sampler.position().epoch;
        let mut batches = Vec::new();
        while batches.len() < self.prepared.batches_a_step && self.sampler.position().epoch == epoch {
            batches.push(self.sampler.next_batch(&self.prepared.data.examples));
        }
        batches
    }

    /// AdamW with PyTorch's and transformers' betas and epsilon.
    fn hyper(&self, learning_rate: f64, step: u64) -> Hyper {
        let TrainOptions { weight_decay, max_grad_norm, .. } = self.prepared.options;
        Hyper { learning_rate, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, step, max_grad_norm }
    }

    /// Whether something that is done every so many steps, and at the end, is done after this one.
    fn is_due(&self, every: u64) -> bool {
        self.state.step.is_multiple_of(every) || self.state.step == self.prepared.total_steps
    }

    /// Whether the held-out data is looked at after this step.
    fn evaluates(&self) -> bool {
        self.held_out.is_some() && self.is_due(self.prepared.eval_steps())
    }

    /// Whether the questions are asked after this step.
    fn asks(&self) -> bool {
        self.prepared.checks.is_some() && self.is_due(self.prepared.check_steps())
    }

    /// Measures what is measured after the newest step, unless `metrics` has it already. What someone who asked to stop has cut short is
    /// not there then, and is owed.
    fn look(&mut self, metrics: &mut StepMetrics) -> Result<()> {
        if let (true, None, Some(held_out)) = (self.evaluates(), metrics.eval_loss, &mut self.held_out) {
            metrics.eval_loss = held_out.loss(&self.prepared.ranks, &self.interrupt)?;
        }
        if self.asks() && metrics.check.is_none() {
            // The first rank has what answers.
            let tally = match (&mut self.answering, &self.prepared.checks) {
                (Some(answering), Some(checks)) => answering.ask(checks, &self.prepared.model.tokenizer, &self.interrupt)?,
                _ => None,
            };
            metrics.check = self.prepared.ranks.told(tally)?;
        }
        Ok(())
    }

    /// What the newest step did, if its numbers have arrived.
    fn newest(&self) -> Option<&StepMetrics> {
        self.metrics.history().last().filter(|last| last.step == self.state.step)
    }

    /// Whether something that is measured after the newest step has not been.
    fn owes(&self) -> bool {
        self.newest().is_some_and(|last| (self.evaluates() && last.eval_loss.is_none()) || (self.asks() && last.check.is_none()))
    }

    /// Measures what was owed when the run was stopped: the adapter is what it was then.
    fn catch_up(&mut self) -> Result<()> {
        let Some(before) = self.newest().cloned().filter(|_| self.owes()) else { return Ok(()) };
        let mut metrics = before.clone();
        self.look(&mut metrics)?;
        let mut news = metrics.clone();
        news.eval_loss.take_if(|_| before.eval_loss.is_some());
        news.check.take_if(|_| before.check.is_some());
        self.progress.measured(&news);
        for watch in &mut self.watches {
            watch.measured(&news)?;
        }
        self.metrics.complete(metrics)
    }

    /// Waits for the numbers of the last step, if that has not been done yet, checks and reports them.
    ///
    /// A step's update is never submitted before the numbers of the step before have been found finite, nor is anything saved.
    fn settle(&mut self) -> Result<()> {
        let Some(Unsettled { step, batches, supervised_tokens, learning_rate, losses, grad_norm }) = self.unsettled.take() else {
            return Ok(());
        };
        // What each batch adds to the loss, and its load balancing loss, on whichever rank it was, and the memory of all ranks.
        let count = batches.len();
        let mut told = vec![0.0; 2 * count + 1];
        for ((number, _), (part, balance)) in self.prepared.ranks.mine(&batches).zip(losses) {
            told[number] = part.wait_for_one()?;
            told[count + number] = balance.map_or(Ok(0.0), Readback::wait_for_one)?;
        }
        told[2 * count] = self.trainer.device().allocated().now as f64;
        self.prepared.ranks.sum_few(&mut told);
        let is_balanced = self.prepared.model.files.config.router_aux_loss_coef.is_some();
        let aux_loss = is_balanced.then(|| told[count..2 * count].iter().sum::<f64>() / count as f64);
        let mut loss = 0.0;
        for (batch, part) in batches.iter().zip(&told) {
            loss += part;
            self.check_finite("loss", loss, step, std::slice::from_ref(batch))?;
        }
        let grad_norm = grad_norm.wait_for_one()?;
        self.check_finite("gradient norm", grad_norm, step, &batches)?;
        if step == 1 {
            self.check_alive(loss, grad_norm)?;
        }
        let tokens: usize = batches.iter().map(Batch::rows).sum();
        let tokens_per_second = tokens as f64 / self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        let mut metrics = StepMetrics {
            step,
            loss,
            learning_rate,
            grad_norm,
            tokens: tokens as u64,
            supervised_tokens: supervised_tokens as u64,
            tokens_per_second,
            gpu_bytes: told[2 * count] as u64,
            aux_loss,
            eval_loss: None,
            check: None,
        };
        if step == self.state.step {
            self.look(&mut metrics)?;
        }
        self.progress.step(&metrics);
        for watch in &mut self.watches {
            watch.step(&metrics, &self.trainer)?;
            // Its time is not the next step's.
            self.since = Instant::now();
        }
        self.metrics.append(metrics).map_err(|error| checkpoint::with_last_good(&self.prepared.options.out, error))
    }

    /// Shows where the time of the profiled step went, and writes its trace.
    fn tell_profile(&mut self, profile: &Profile) {
        let timings = self.trainer.take_profile();
        self.progress.note(&format!("step {} by kernel, timed by the device:\n{}", profile.step, timings::table(&timings, None)));
        let trace = timings::chrome_trace(&timings).to_string();
        match atomic::write_atomically(&profile.path, trace.as_bytes()) {
            Ok(()) => self.progress.note(&format!("trace for ui.perfetto.dev: {}", profile.path.display())),
            // A trace is not worth a run.
            Err(error) => tracing::warn!("no trace: {error}"),
        }
    }

    /// Writes a checkpoint of the last whole step, and the curve up to it; gives its folder, on the rank that writes.
    fn save(&mut self) -> Result<Option<PathBuf>> {
        self.settle()?;
        self.stay_together()?;
        let Some(lock) = &self.lock else { return Ok(None) };
        lock.check_in_place()?;
        self.metrics.sync().map_err(|error| checkpoint::with_last_good(&self.prepared.options.out, error))?;
        self.draw();
        if let Some((_, folder)) = self.saved.as_ref().filter(|(step, _)| *step == self.state.step) {
            return Ok(Some(folder.clone()));
        }
        let (moments, _) = self.trainer.optimizer_state()?;
        let adapter = self.trainer.adapter().contents()?;
        let taken_out = self.prepared.adapter.taken_out().to_vec();
        let checkpoint = Checkpoint { state: self.state.clone(), adapter, moments, taken_out };
        let values = checkpoint.adapter.iter().chain(checkpoint.moments.iter().flatten());
        if !values.into_iter().all(|value| value.is_finite()) {
            let problem = "the update made the adapter infinite; it is not saved".to_string();
            return Err(self.diverged(self.state.step, problem, true));
        }
        let layout = &self.trainer.adapter().layout;
        let Prepared { options, adapter, .. } = &self.prepared;
        for (name, text) in self.prepared.notes() {
            let write = |text: String| atomic::write_atomically(&options.out.join(name), text.as_bytes());
            text.map_or(Ok(()), write).map_err(|error| checkpoint::with_last_good(&options.out, error))?;
        }
        let folder = checkpoint.save(&options.out, adapter, layout, options.save_total_limit)?;
        self.saved = Some((self.state.step, folder.clone()));
        Ok(Some(folder))
    }

    /// That all ranks go on from what is saved: GPUs of different makes round differently, so that their adapters may part.
    fn stay_together(&mut self) -> Result<()> {
        let ranks = self.prepared.ranks.clone();
        if ranks.is_alone() {
            return Ok(());
        }
        let digest = self.trainer.digest()?;
        if ranks.any(ranks.told(digest)? != digest) {
            self.trainer.share(&ranks)?;
            let step = self.state.step;
            self.progress
                .note(&format!("step {step}: the ranks' GPUs have rounded differently; all go on with the adapter of rank 0"));
        }
        Ok(())
    }

    /// Writes the curve, unless a picture of someone else has its name.
    fn draw(&self) {
        let TrainOptions { out, overwrite, .. } = &self.prepared.options;
        let path = out.join(CURVE_FILE);
        if !overwrite && std::fs::symlink_metadata(&path).is_ok() && !sums::is_signed(&path) {
            tracing::warn!("{} is not of this run and stays as it is; no loss curve is written", path.display());
            return;
        }
        let curve = sums::signed(&loss_curve(self.metrics.history()));
        if let Err(error) = atomic::write_atomically(&path, curve.as_bytes()) {
            // A picture is not worth a run; if the disk is full, the checkpoint will say so.
            tracing::warn!("no loss curve: {error}");
        }
    }

    /// Saves what has been done and stops. The batches of a step that was begun are done again when the run goes on.
    fn pause(&mut self) -> Result<Outcome> {
        let steps = self.state.step;
        if !self.prepared.ranks.is_alone() {
            self.progress.note("asked to stop: saving a checkpoint");
        }
        let checkpoint = if steps > 0 { self.save()? } else { None };
        self.progress.finish();
        Ok(Outcome::Interrupted { steps, checkpoint })
    }

    /// Saves the last checkpoint and the adapter itself.
    fn finish(&mut self) -> Result<Outcome> {
        self.save()?;
        let newcomers = if self.lock.is_some() { self.standing.newcomers() } else { Vec::new() };
        for path in &newcomers {
            self.progress
                .note(&format!("warning: {} came while this run went on; it is kept under a name of its own", path.display()));
        }
        beginning::put_aside(&newcomers)?;
        if self.lock.is_some() {
            let adapter = &self.prepared.adapter;
            (adapter.save(&self.prepared.options.out, &self.trainer.adapter().tensors()?))
                .map_err(|error| checkpoint::with_last_good(&self.prepared.options.out, error))?;
        }
        self.progress.finish();
        let last = self.metrics.history().last();
        let (last_loss, eval_loss) = (last.map(|last| last.loss), last.and_then(|last| last.eval_loss));
        if last_loss.is_some_and(|loss| self.is_indifferent(loss)) {
            self.progress
                .note("warning: nothing was learned: the last loss is the logarithm of the vocabulary, as of a dead model");
        }
        Ok(Outcome::Finished { steps: self.state.step, last_loss, eval_loss })
    }
}
