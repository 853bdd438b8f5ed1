//! From options to a run: everything is checked that can be checked before the GPU is touched and before a file is written. What of it
//! the user is told, `summary` says; `records` is about the data, `started` about the adapter as it starts, and `fingerprint` about what a run
//! that goes on must not change. Then `output` takes the folder, and `run` goes to the device.

mod fingerprint;
mod output;
mod records;
mod run;
mod started;
mod summary;

use std::sync::Arc;

use super::ask::adapter::Asked;
use super::budget;
use super::checks::Checks;
use super::eva;
use super::keep::beginning;
use super::memory::{Memory, Planner, StepShape};
use super::options::TrainOptions;
use super::schedule::Schedule;
use super::shared::Shared;
use super::step::Recompute;
use super::sum::Sum;
use crate::adapter::added_tokens;
use crate::adapter::end_of_turn::{self, EndOfTurn};
use crate::adapter::rope_scaling;
use crate::adapter::start::Start;
use crate::adapter::{AdapterLayout, Placement};
use crate::cache::cache_folder;
use crate::data::{Batch, Dataset, Sampler};
use crate::formats::adapter_file::AdapterFile;
use crate::gpu::{self, Device};
use crate::graph::{Counts, Graph};
use crate::kernel::Facts;
use crate::model::weights::{DeviceWeights, WeightType};
use crate::plan::autotune::Record;
use crate::ranks::Ranks;
use crate::session::prefix_cache::{Lowest, PrefixCachePlan, Seen};
use crate::session::{self, OpenModel, SessionOptions, Watch};
use crate::{Error, Result};
pub use output::Output;
use records::{data_key, in_order, load_data, sampler_options, steps_of_epoch, steps_of_epochs};
pub(super) use run::Engine;
pub(super) use started::Looking;

/// A run whose options, model and data fit together; nothing is written and no GPU is used yet.
pub struct Prepared<'m> {
    pub options: TrainOptions,
    pub data: Arc<Dataset>,
    pub eval_data: Option<Arc<Dataset>>,
    /// What the adapter is, as its library will read it.
    pub adapter: AdapterFile,
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
    /// Batches that all ranks together do in a step; the last one of an epoch may have fewer.
    pub batches_a_step: usize,
    /// Who works on the run.
    pub(super) ranks: Ranks,
    /// With how many ranks it began.
    began_with: usize,
    pub(super) model: &'m OpenModel,
    placement: Placement,
    layout: AdapterLayout,
    /// The adapter's start where `--init-adapter` gives one, laid out as `layout`.
    start: Option<Vec<f32>>,
    /// At the first batch.
    sampler: Sampler,
    pub(super) schedule: Schedule,
    pub(super) planner: Planner,
    /// The questions of `--check-data`.
    pub(super) checks: Option<Checks>,
    /// The plan without a prefix cache.
    whole: Planner,
    prefix: PrefixCachePlan,
    shared: Arc<Shared>,
    /// The tokenizer that is kept beside the adapter, by the names of its files; none where the model's own is right.
    tokenizer_files: Vec<(&'static str, String)>,
}

impl<'m> Prepared<'m> {
    /// Checks options against the model and the data.
    ///
    /// # Errors
    /// Bad input: a record, a module, a layer, a start adapter that cannot be used, data with nothing to learn, or a memory budget that
    /// is too small.
    pub fn new(options: TrainOptions, model: &'m OpenModel) -> Result<Self> {
        Self::beside(Arc::default(), options, model)
    }

    /// [`Prepared::new`] for one of several runs on this model, which have `shared` in common. The numbers of a run do not depend on it.
    ///
    /// # Errors
    /// As [`Prepared::new`].
    pub fn beside(shared: Arc<Shared>, options: TrainOptions, model: &'m OpenModel) -> Result<Self> {
        let began_with = beginning::ranks(&options).unwrap_or(1);
        Self::with(Ranks::alone(), began_with, shared, options, model)
    }

    /// [`Prepared::new`] for one of several ranks that work on the same run, which began with as many as `began_with` says. The numbers
    /// of a run depend on that, and not on how many go on with it, but for the order in which the ranks' gradients are added.
    ///
    /// # Errors
    /// As [`Prepared::new`].
    pub fn among(ranks: Ranks, began_with: usize, options: TrainOptions, model: &'m OpenModel) -> Result<Self> {
        Self::with(ranks, began_with, Arc::default(), options, model)
    }

    fn with(ranks: Ranks, began_with: usize, shared: Arc<Shared>, options: TrainOptions, model: &'m OpenModel) -> Result<Self> {
        let config = &model.files.config;
        // Also that which the adapter remembers that the run starts from: the run's own is to remember it, too.
        let options = TrainOptions { rope_scaling: model.rope_scaling, ..options };
        let Asked { config: adapter, placement, layout, start } = Asked::of(&options, model)?;

        // A packed row may be longer than the model's context; a record in it may not.
        let longest = options.max_length.min(config.context());
        let (data, eval_data) = shared.data(data_key(&options, longest), || load_data(&options, model, longest))?;
        if options.init_lora_weights == Some(Start::Eva) {
            eva::check(&placement, &data)?;
        }
        let sampler = Sampler::new(&data, sampler_options(&options))?;
        let batches_a_step = options.gradient_accumulation_steps.saturating_mul(began_with);
        let total_steps = match options.max_steps {
            Some(steps) => steps,
            None => steps_of_epochs(&sampler, &options, batches_a_step, data.examples.len())?,
        };
        let schedule = Schedule::new(options.lr_schedule, options.learning_rate, options.warmup_steps, total_steps);
        let seen = Seen { data: &data, repeatedly: total_steps > steps_of_epoch(&sampler, batches_a_step, 0) };
        let held_out = eval_data.as_ref().map(|data| Seen { data, repeatedly: eval_steps(&options, total_steps) < total_steps });
        let lowest = placement.lowest_layer();
        let cached = options.prefix_cache();
        // The routers of all layers have a part in the load balancing loss, so a step runs them all.
        let seen = if config.router_aux_loss_coef.is_none() { Some(seen) } else { cached.only_held_out().map(|()| None)? };
        let prefix = PrefixCachePlan::new(&cached, lowest, config.hidden_size, seen, held_out)?;

        let accumulate = Sum::accumulates(&ranks, options.deterministic_sum, batches_a_step);
        let held_out_tokens = match &eval_data {
            Some(held_out) => Sampler::new(held_out, in_order(&options))?.max_rows(),
            None => 0,
        };
        let shape = StepShape { max_tokens: sampler.max_rows(), accumulate, recompute: Recompute::None, held_out_tokens };
        let weights = WeightType::asked(options.weights, !options.no_double_quant);
        let whole = planner(model, &placement, weights, shape, Lowest::default())?;
        let checks = Checks::of(&options, model, &model.storage(weights), &placement)?;
        let planner = planner(model, &placement, weights, shape, prefix.lowest())?;
        let planner = planner.answering(checks.as_ref().map_or(0, |checks| checks.bytes));
        let planner = budget::within_budget(planner, options.recompute, options.memory_budget)?;
        let tokenizer_files = match model.added.as_slice() {
            [] => Vec::new(),
            added => added_tokens::FILES.into_iter().zip(added_tokens::texts(&model.files, &model.tokenizer, added)?).collect(),
        };
        Ok(Self {
            options,
            data,
            eval_data,
            adapter,
            total_steps,
            batches_a_step,
            ranks,
            began_with,
            model,
            placement,
            layout,
            start,
            sampler,
            schedule,
            planner,
            checks,
            whole,
            prefix,
            shared,
            tokenizer_files,
        })
    }

    /// What is adapted, and how.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Numbers that the run trains.
    pub fn trained_parameters(&self) -> usize {
        self.layout.parameters()
    }

    /// What the run will occupy on the device; known without one.
    pub fn memory(&self) -> Memory {
        self.planner.memory()
    }

    /// What of the forward pass is computed again.
    pub fn recompute(&self) -> Recompute {
        self.planner.shape().recompute
    }

    /// The plan of the same run with other weights and steps of another shape.
    pub(super) fn planner_of(&self, weights: WeightType, shape: StepShape) -> Result<Planner> {
        planner(self.model, &self.placement, weights, shape, self.prefix.lowest())
    }

    /// Opens the device of the run, which has the memory for it as far as that is known.
    ///
    /// # Errors
    /// Bad input: no such device. As [`Prepared::check_fits`].
    pub fn open_device(&self) -> Result<Device> {
        let device =
            Device::open_for(device_choice(self.options.device.as_deref(), &self.ranks).as_deref(), self.options.matmul)?;
        self.check_fits(&device)?;
        Ok(device)
    }

    /// Which device, and how it computes.
    pub fn session_options(&self) -> SessionOptions {
        SessionOptions {
            device: self.options.device.clone(),
            matmul: self.options.matmul,
            weights: self.weight_type(),
            autotune: !self.options.no_autotune,
            cache: cache_folder(),
        }
    }

    /// What the run computes, for the choice of kernels: with a prefix cache or without the same are chosen, and so the numbers are the
    /// same.
    pub fn graphs(&self) -> Vec<Graph> {
        let answering = self.checks.iter().flat_map(|checks| checks.graphs.clone());
        self.whole.clone().with(self.planner.shape().recompute).graphs().into_iter().chain(answering).collect()
    }

    /// Floating-point operations of a full batch, forward and backward, as the run computes it.
    pub fn flops_a_batch(&self) -> f64 {
        self.planner.flops_with_recompute(&self.full_batch())
    }

    /// The rows of a full batch, with as many supervised ones as the data has on the whole.
    fn full_batch(&self) -> Counts {
        let (tokens, report) = (self.planner.shape().max_tokens, &self.data.report);
        Counts { tokens, supervised: tokens * report.supervised_tokens / report.tokens.max(1) }
    }

    /// Floating-point operations of this batch, as the run computes it.
    pub(super) fn flops_of(&self, batch: &Batch) -> f64 {
        let counts = Counts { tokens: batch.rows(), supervised: batch.targets.len() };
        self.planner.flops_with_recompute(&counts)
    }

    /// Decides with which kernels `device` computes this run, and the `more` graphs that it is to compute besides: by measurement, or as
    /// the run that is continued did. Then sends the weights there.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with the plan's figures; a weight is broken.
    pub fn load(&self, device: Device, output: &mut Output, more: Vec<Graph>, watch: &dyn Watch) -> Result<Arc<DeviceWeights>> {
        let graphs = [self.graphs(), more].concat();
        // A run from before there was tuning goes on without.
        let untuned = output.steps_done() > 0 && output.state.kernels.is_none();
        let options = self.session_options();
        let options = SessionOptions { autotune: options.autotune && !untuned, ..options };
        let load = |device, recorded: Option<&Record>| {
            session::load(self.model, &options, device, &graphs, recorded, watch).map_err(|error| self.explained(error))
        };
        // One rank chooses, so that all compute alike, and none measures while another works on the same device.
        let mut device = Some(device);
        let chosen = device.take_if(|_| self.ranks.is_first()).map(|device| load(device, output.state.kernels.as_ref()));
        let chosen = self.ranks.agree(chosen.transpose())?;
        let record = self.ranks.told(chosen.as_ref().map(|(_, record)| record.clone()))?;
        let of_this_rank = device.map(|device| load(device, record.as_ref())).transpose();
        let of_this_rank = self.ranks.agree(of_this_rank)?;
        let Some((weights, record)) = chosen.or(of_this_rank) else {
            return Err(Error::failed("ranks", "no weights were loaded", "this is a defect; please report it"));
        };
        output.state.kernels = Some(record);
        Ok(weights)
    }

    /// The storage type that `--weights` asks for.
    pub fn weight_type(&self) -> WeightType {
        WeightType::asked(self.options.weights, !self.options.no_double_quant)
    }

    /// The tokens that end the turns of the data.
    pub fn turn_ends(&self) -> Vec<EndOfTurn> {
        let token = |&id: &u32| Some(EndOfTurn { id, token: self.model.tokenizer.token(id)? });
        self.data.report.turn_ends.iter().filter_map(token).collect()
    }

    /// The files that tell, beside the adapter, how to generate with it, by name; `None` where it needs no such file.
    pub(super) fn notes(&self) -> beginning::Notes {
        let mut notes = vec![
            (end_of_turn::FILE, end_of_turn::content(&self.turn_ends())),
            (rope_scaling::FILE, rope_scaling::content(self.options.rope_scaling)),
        ];
        notes.extend(self.tokenizer_files.iter().map(|(name, text)| (*name, Some(text.clone()))));
        notes
    }

    /// Steps between two evaluations.
    pub(super) fn eval_steps(&self) -> u64 {
        eval_steps(&self.options, self.total_steps)
    }

    /// Steps between two rounds of questions.
    pub(super) fn check_steps(&self) -> u64 {
        self.options.check_steps.unwrap_or(self.total_steps.div_ceil(5).max(1))
    }
}

fn planner(model: &OpenModel, placement: &Placement, weights: WeightType, shape: StepShape, lowest: Lowest) -> Result<Planner> {
    // The device is not known yet; one with no more than WebGPU asks for needs the most kernel calls.
    let (facts, bytes) = (Facts::default(), model.weight_bytes(weights));
    Planner::new(&model.files.config, &model.storage(weights), placement, shape, bytes, &facts, lowest)
}

/// What this rank takes of `--device`: of a list its entry, by its number on this machine, and round again where there are more ranks;
/// without, its own of the best GPUs.
pub fn device_choice(given: Option<&str>, ranks: &Ranks) -> Option<String> {
    if ranks.is_alone() {
        return given.map(str::to_string);
    }
    let place = ranks.local_rank();
    let Some(given) = given else { return Some(gpu::number_for(place).to_string()) };
    let list: Vec<&str> = given.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
    list.get(place % list.len().max(1)).map(|entry| entry.to_string())
}

/// Optimizer steps between two evaluations: ten in a run unless the options say something else.
pub(super) fn eval_steps(options: &TrainOptions, total_steps: u64) -> u64 {
    options.eval_steps.unwrap_or(total_steps.div_ceil(10).max(1))
}

/// What a run with these options adapts; no data is read.
///
/// # Errors
/// Bad input: a module, a layer, a rank or a start adapter that cannot be used.
pub fn placement_of(options: &TrainOptions, model: &OpenModel) -> Result<Placement> {
    Asked::of(options, model).map(|asked| asked.placement)
}
