//! A model, its adapter and the optimizer on a device: what a training step calls.

use super::groups::{Group, run};
use super::memory::{Memory, StepShape};
use super::step::{Balance, LossGraph, OptimizerGraph};
use crate::adapter::{AdapterBuffers, DeviceAdapter};
use crate::architecture::Architecture;
use crate::data::Batch;
use crate::gpu::{Device, Readback};
use crate::graph::{Counts, Graph, ValueId};
use crate::model::graph::{Inputs, Part};
use crate::model::weights::DeviceWeights;
use crate::ops::adamw::Hyper;
use crate::plan::{Executable, Timing};
use crate::ranks::Ranks;
use crate::session::batch::write_batch;
use crate::session::evaluate::Evaluator;
use crate::session::memory::rope_bytes;
use crate::session::prefix_cache::{PrefixCache, PrefixMemory};
use crate::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3Default;

/// See the [module](self).
pub struct Trainer {
    device: Arc<Device>,
    adapter: DeviceAdapter,
    weights: Arc<DeviceWeights>,
    inputs: Inputs,
    dropout_counter: Option<ValueId>,
    loss: ValueId,
    balance: Option<Balance>,
    rope_bytes: usize,
    step: Executable,
    /// Runs, or remembers, the layers below `step`.
    prefix: Option<PrefixCache>,
    gradients: AdapterBuffers,
    /// Sum over the batches of a step, where a step has more than one.
    total: Option<AdapterBuffers>,
    groups: Vec<Group>,
    /// When the backward pass makes each part of the adapter's gradients: [`LossGraph::made`].
    made: Vec<usize>,
    moments: [AdapterBuffers; 2],
    optimizer: Executable,
    optimizer_graph: OptimizerGraph,
    seed: u32,
    /// Batches so far, which the dropout generator counts.
    batches: u32,
    /// Dispatches of the step that is being profiled.
    profile: Option<Vec<Timing>>,
}

impl Trainer {
    /// Prepares training of `adapter` by steps of this shape. `prefix`: what gives the hidden states that enter the lowest adapted layer,
    /// where that is not the work of every step.
    ///
    /// # Errors
    /// If the device cannot hold it.
    pub fn new(
        weights: Arc<DeviceWeights>,
        config: &Architecture,
        adapter: DeviceAdapter,
        shape: StepShape,
        seed: u64,
        prefix: Option<PrefixCache>,
    ) -> Result<Self> {
        let device = weights.device().clone();
        let part = Part::above(prefix.as_ref().map(PrefixCache::first_layer));
        let graphs = LossGraph::build_part(config, &|name| weights.dtype(name), &adapter.placement, part, shape.max_tokens)?;
        let graphs = graphs.recomputed(shape.recompute);
        let buffers = |name| AdapterBuffers::allocate(device.clone(), name, &adapter.layout);
        let gradients = buffers("gradients")?;
        let mut pinned = weights.pinned(&graphs.model, config)?;
        pinned.extend(adapter.pinned(&graphs.model.graph, &graphs.leaves));
        pinned.extend(adapter.layout.pinned(&gradients, &graphs.gradients));
        let (inputs, loss, rope_bytes) = (graphs.model.inputs, graphs.loss, rope_bytes(&graphs.model));
        let (balance, dropout_counter) = (graphs.balance, graphs.dropout_counter);
        let (outputs, made) = (graphs.outputs(), graphs.made());
        pinned.extend(inputs.hidden.zip(prefix.as_ref()).map(|(id, prefix)| (id, prefix.hidden().clone().into())));
        let step = Executable::new(weights.place(), graphs.model.graph, &outputs, pinned)?;

        let total = shape.accumulate.then(|| buffers("summed gradients")).transpose()?;
        let all = adapter.layout.groups(&made, usize::MAX).into_iter();
        let groups =
            all.map(|bytes| Group::new(&weights.place(), bytes, &step, &gradients, total.as_ref())).collect::<Result<_>>()?;
        let moments = [buffers("first moment")?, buffers("second moment")?];
        let optimizer_graph = OptimizerGraph::build_rated(&adapter.layout.rated_spans())?;
        let summed = total.as_ref().unwrap_or(&gradients);
        let mut pinned = HashMap::new();
        let slices = adapter.parameters.slices().zip(summed.slices()).zip(moments[0].slices().zip(moments[1].slices()));
        for (state, ((parameters, gradients), (first_moment, second_moment))) in optimizer_graph.states.iter().zip(slices) {
            pinned.insert(state.parameters, parameters.clone().into());
            pinned.insert(state.gradients, gradients.clone().into());
            pinned.insert(state.first_moment, first_moment.clone().into());
            pinned.insert(state.second_moment, second_moment.clone().into());
        }
        let optimizer = Executable::new(weights.place(), optimizer_graph.graph.clone(), &[optimizer_graph.norm], pinned)?;
        let seed = (seed ^ (seed >> 32)) as u32;
        Ok(Self {
            device,
            adapter,
            weights,
            inputs,
            dropout_counter,
            loss,
            balance,
            rope_bytes,
            step,
            prefix,
            gradients,
            total,
            groups,
            made,
            moments,
            optimizer,
            optimizer_graph,
            seed,
            batches: 0,
            profile: None,
        })
    }

    /// Adds the loss and the gradients of a batch to the step; `first` begins a new step. Each token's loss counts `loss_weight`:
    /// 1 / supervised tokens of the whole step. Returns the batch's part of the step's loss, in nats, without the
    /// [load balancing loss](Trainer::load_balancing_loss), whose gradient is among those of the batch.
    ///
    /// # Errors
    /// If the device is lost, or a step of several batches was not prepared for; as [`PrefixCache::provide`].
    pub fn accumulate(&mut self, batch: &Batch, loss_weight: f64, first: bool) -> Result<f64> {
        self.begin(batch, loss_weight)?;
        self.complete(first)?.wait_for_one()
    }

    /// The first half of [`Trainer::accumulate`]: submits the batch, or as much of it as fits a slice, so that the device has work while
    /// the host reads the numbers of the step before.
    ///
    /// # Errors
    /// If the device is lost; as [`PrefixCache::provide`].
    pub fn begin(&mut self, batch: &Batch, loss_weight: f64) -> Result<()> {
        let counts = self.write(batch, loss_weight)?;
        self.batches = self.batches.wrapping_add(1);
        match &mut self.profile {
            Some(profile) => {
                let mut timings = self.step.run_timed(&counts)?;
                count_visible_pairs(&mut timings, batch);
                profile.append(&mut timings);
                Ok(())
            }
            None => self.step.begin(&counts),
        }
    }

    /// The second half of [`Trainer::accumulate`]: submits what is left. The loss is to be waited for.
    ///
    /// # Errors
    /// If the device is lost, or a step of several batches was not prepared for.
    pub fn complete(&mut self, first: bool) -> Result<Readback> {
        if self.profile.is_none() {
            self.step.complete()?;
        }
        self.add_up(first)?;
        self.step.read_later(self.loss, 1)
    }

    /// Cuts the gradients into groups of at least so many bytes, but for the last, in the order in which the backward pass makes them.
    pub fn groups(&self, least: usize) -> Vec<Vec<Range<usize>>> {
        self.adapter.layout.groups(&self.made, least)
    }

    /// Takes these groups of the gradients, bytes of the adapter's layout, for [`Trainer::complete_summed`].
    ///
    /// # Errors
    /// If the device cannot hold what adds them up.
    pub fn sum_in(&mut self, groups: Vec<Vec<Range<usize>>>) -> Result<()> {
        let place = self.weights.place();
        let group = |bytes| Group::new(&place, bytes, &self.step, &self.gradients, self.total.as_ref());
        self.groups = groups.into_iter().map(group).collect::<Result<_>>()?;
        self.step.end_slices_at(self.groups.iter().map(|group| group.last_use));
        Ok(())
    }

    /// [`Trainer::complete`] of the last batch of a step. Each group of the step's gradients goes through `sum`, in their order, while the
    /// device computes those that follow; what `sum` leaves are the gradients of the step. It is told how many of the batch's dispatches
    /// are left to be submitted.
    ///
    /// # Errors
    /// As [`Trainer::complete`].
    pub fn complete_summed(&mut self, first: bool, mut sum: impl FnMut(&mut [f32], usize)) -> Result<Readback> {
        self.start_sum(first)?;
        let Self { step, gradients, total, groups, profile, .. } = self;
        let summed = total.as_ref().unwrap_or(gradients);
        let mut finish = |(group, values): (&Group, Vec<Readback>), left: usize| -> Result<()> {
            let mut values = values.into_iter().map(Readback::wait).collect::<Result<Vec<_>>>()?.concat();
            sum(&mut values, left);
            group.write(summed, &values);
            Ok(())
        };
        let (mut groups, mut under_way) = (groups.iter_mut().peekable(), Vec::new());
        step.complete_beside(|left| {
            // What became final with the newest slice is read behind it; what the one before made has arrived.
            let arrived = std::mem::take(&mut under_way);
            while let Some(group) = groups.next_if(|group| group.is_final(left.start)) {
                group.add(profile)?;
                under_way.push((&*group, group.read(summed)?));
            }
            let took_time = !arrived.is_empty();
            arrived.into_iter().try_for_each(|group| finish(group, left.len()))?;
            Ok(took_time)
        })?;
        under_way.into_iter().try_for_each(|group| finish(group, 0))?;
        self.step.read_later(self.loss, 1)
    }

    /// What [`Trainer::complete_summed`] does for one that has no batch in a step, and so gives zeros.
    pub fn sum_without_batch(&mut self, mut sum: impl FnMut(&mut [f32])) {
        for group in &self.groups {
            let mut values = vec![0.0; group.elements()];
            sum(&mut values);
            group.write(self.summed(), &values);
        }
    }

    /// The load balancing loss of the last batch, where it is a part of the loss, before it is multiplied by its coefficient. It is to be
    /// waited for.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn load_balancing_loss(&self) -> Result<Option<Readback>> {
        self.balance.map(|balance| self.step.read_later(balance.loss, 1)).transpose()
    }

    /// Adds the gradients of a batch to those of the step, or begins a step with them.
    fn add_up(&mut self, first: bool) -> Result<()> {
        self.start_sum(first)?;
        self.groups.iter_mut().try_for_each(|group| group.add(&mut self.profile))
    }

    /// Makes the gradients of the step ready for those of a batch.
    fn start_sum(&self, first: bool) -> Result<()> {
        match &self.total {
            Some(total) if first => total.clear(),
            None if !first => {
                let problem = "a second batch in a step that was prepared for one";
                return Err(Error::failed("trainer", problem, "this is a defect; please report it"));
            }
            _ => (),
        }
        Ok(())
    }

    /// The next batch counts as number `batches` of the run, from 0, for the dropout generator: ranks that have a step's batches among
    /// them drop what one would that had them all.
    pub fn count_from(&mut self, batches: u32) {
        self.batches = batches;
    }

    /// Adds the gradients of a batch that another rank has run, laid out as the adapter, as [`Trainer::complete`] adds those of a batch
    /// of this one; `first` begins the sum anew.
    ///
    /// # Errors
    /// As [`Trainer::complete`].
    pub fn add(&mut self, gradients: &[f32], first: bool) -> Result<()> {
        self.gradients.write(gradients);
        self.add_up(first)
    }

    /// Gradients of the step so far, laid out as the adapter.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn step_gradients(&self) -> Result<Vec<f32>> {
        self.summed().read()
    }

    /// What the optimizer reads.
    fn summed(&self) -> &AdapterBuffers {
        self.total.as_ref().unwrap_or(&self.gradients)
    }

    /// Can the device time its dispatches?
    pub fn can_profile(&self) -> bool {
        self.device.has_timestamps()
    }

    /// From now on every dispatch is timed, but for a prefix; that changes no number. A device without timestamps fails at the next batch.
    pub fn start_profile(&mut self) {
        self.profile = Some(Vec::new());
    }

    /// The dispatches since [`Trainer::start_profile`], in order; what follows is not timed any more.
    pub fn take_profile(&mut self) -> Vec<Timing> {
        self.profile.take().unwrap_or_default()
    }

    /// Sends a batch to the device, with the count that the dropout generator needs and the hidden states that a prefix gives.
    fn write(&mut self, batch: &Batch, loss_weight: f64) -> Result<Counts> {
        if let Some(prefix) = &mut self.prefix {
            prefix.provide(batch)?;
        }
        if let Some(balance) = self.balance {
            self.step.write(balance.weight, &[balance.coefficient as f32]);
        }
        if let Some(counter) = self.dropout_counter {
            self.step.write(counter, &[self.seed, self.batches]);
        }
        Ok(write_batch(&self.step, &self.inputs, batch, loss_weight))
    }

    /// Updates the adapter with the step's gradients. Returns the global norm of the gradient before clipping.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn apply(&mut self, hyper: &Hyper) -> Result<f64> {
        self.update(hyper)?.wait_for_one()
    }

    /// [`Trainer::apply`] without waiting: the norm is to be waited for. A norm that is not finite has changed nothing.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn update(&mut self, hyper: &Hyper) -> Result<Readback> {
        for (rate, leaf) in &self.optimizer_graph.hypers {
            let of_rate = Hyper { learning_rate: hyper.learning_rate * rate, ..*hyper };
            self.optimizer.write(*leaf, &of_rate.values());
        }
        run(&mut self.optimizer, &mut self.profile)?;
        self.optimizer.read_later(self.optimizer_graph.norm, 1)
    }

    /// The frozen weights.
    pub fn weights(&self) -> &Arc<DeviceWeights> {
        &self.weights
    }

    /// The device that it trains on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The adapter that is trained.
    pub fn adapter(&self) -> &DeviceAdapter {
        &self.adapter
    }

    /// Gradients of the last batch (not of the whole step), laid out as the adapter.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn gradients(&self) -> Result<Vec<f32>> {
        self.gradients.read()
    }

    /// First and second moments, laid out as the adapter, and the number of batches so far.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn optimizer_state(&self) -> Result<([Vec<f32>; 2], u32)> {
        Ok(([self.moments[0].read()?, self.moments[1].read()?], self.batches))
    }

    /// Puts adapter and optimizer back to a saved state.
    pub fn restore(&mut self, adapter: &[f32], moments: [&[f32]; 2], batches: u32) {
        self.adapter.set(adapter);
        self.moments.iter().zip(moments).for_each(|(moment, values)| moment.write(values));
        self.batches = batches;
    }

    /// Gives every rank the adapter, also what of it is not trained, and the optimizer's state of the first one.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn share(&mut self, ranks: &Ranks) -> Result<()> {
        if ranks.is_alone() {
            return Ok(());
        }
        for buffers in [&self.adapter.parameters, self.adapter.frozen_buffers(), &self.moments[0], &self.moments[1]] {
            let mut contents = buffers.read()?;
            ranks.share(&mut contents, 0);
            buffers.write(&contents);
        }
        Ok(())
    }

    /// A short name for the adapter's and the optimizer's numbers as they are now.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn digest(&self) -> Result<u64> {
        let mut hash = Xxh3Default::new();
        for buffers in [&self.adapter.parameters, &self.moments[0], &self.moments[1]] {
            hash.update(bytemuck::cast_slice(&buffers.read()?));
        }
        Ok(hash.digest())
    }

    /// Bytes on the device by class.
    pub fn memory(&self) -> Memory {
        let adding =
            self.total.as_ref().map_or(0, AdapterBuffers::bytes) + self.groups.iter().map(Group::own_bytes).sum::<usize>();
        let arena = self.step.arena_bytes();
        let below = self.prefix.as_ref().map_or_else(PrefixMemory::default, PrefixCache::memory);
        Memory {
            weights: self.weights.bytes(),
            adapters: self.adapter.bytes(),
            optimizer: self.gradients.bytes()
                + self.moments[0].bytes()
                + self.moments[1].bytes()
                + adding
                + self.optimizer.own_bytes(),
            activations: arena + below.activations,
            inputs: self.step.own_bytes() - arena + self.rope_bytes + below.inputs,
            evaluation: 0,
        }
    }

    /// Evaluation between the steps, in the memory of their activations. `prefix`: what gives the hidden states that enter the lowest
    /// adapted layer, where that is not the work of every evaluation.
    ///
    /// # Errors
    /// If the device cannot hold it.
    pub fn evaluator(&self, config: &Architecture, max_tokens: usize, prefix: Option<PrefixCache>) -> Result<Evaluator> {
        Evaluator::between_steps(&self.step, self.weights.clone(), config, &self.adapter, max_tokens, prefix)
    }

    /// What gives the hidden states that enter the lowest adapted layer, if not the step itself.
    pub fn prefix(&self) -> Option<&PrefixCache> {
        self.prefix.as_ref()
    }

    /// Kernel calls of a step of one batch.
    pub fn dispatches(&self) -> usize {
        self.step.dispatches() + self.groups.iter().map(Group::dispatches).sum::<usize>() + self.optimizer.dispatches()
    }

    /// The graph of one batch, for those who want to look.
    pub fn graph(&self) -> &Graph {
        self.step.graph()
    }
}

/// Shapes do not tell how many keys a row sees, so attention counts the operations of one sequence. Scales them to those of
/// the batch's sequences.
fn count_visible_pairs(timings: &mut [Timing], batch: &Batch) {
    let rows = batch.rows() as f64;
    let visible: f64 = batch.position.iter().map(|&position| f64::from(position) + 1.0).sum();
    let share = visible / (rows * (rows + 1.0) / 2.0);
    timings.iter_mut().filter(|timing| timing.op.starts_with("attention")).for_each(|timing| timing.flops *= share);
}
