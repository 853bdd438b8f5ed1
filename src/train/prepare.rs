//! From options to a run: everything is checked that can be checked before the GPU is touched and before a file is written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::budget;
use super::checkpoint::{self, Checkpoint, RunState};
use super::evaluate::Evaluator;
use super::interrupt::Interrupt;
use super::lock::FolderLock;
use super::memory::{Memory, Planner, StepShape};
use super::metrics::MetricsLog;
use super::options::{TrainOptions, WeightStorage};
use super::progress::Progress;
use super::schedule::Schedule;
use super::step::Recompute;
use super::trainer::Trainer;
use super::{HeldOut, Run};
use crate::adapter::targets::{expand_target_modules, parse_layers};
use crate::adapter::{AdapterLayout, DeviceAdapter, LoraSpec};
use crate::data::{self, Batch, Dataset, Sampler, SamplerOptions};
use crate::formats::peft::{self, AdapterConfig, AdapterTensor};
use crate::gpu::Facts;
use crate::graph::DType;
use crate::model::opened::OpenModel;
use crate::model::weights::{DeviceWeights, WeightType};
use crate::{Error, Result};

/// A run whose options, model and data fit together; nothing is written and no GPU is used yet.
pub struct Prepared<'m> {
    pub options: TrainOptions,
    pub data: Dataset,
    pub eval_data: Option<Dataset>,
    /// What the adapter is, as PEFT will read it.
    pub adapter: AdapterConfig,
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
    model: &'m OpenModel,
    spec: LoraSpec,
    layout: AdapterLayout,
    /// The adapter's start where `--init-adapter` gives one, laid out as `layout`.
    start: Option<Vec<f32>>,
    sampler: Sampler,
    schedule: Schedule,
    planner: Planner,
}

impl<'m> Prepared<'m> {
    /// Checks options against the model and the data.
    ///
    /// # Errors
    /// Bad input: a record, a module, a layer, a start adapter that cannot be used, data with nothing to learn, or a memory budget that
    /// is too small.
    pub fn new(options: TrainOptions, model: &'m OpenModel) -> Result<Self> {
        let config = &model.files.config;
        let (adapter, start) = adapter_of(&options, model)?;
        let place = options.init_adapter.as_deref().unwrap_or(Path::new("adapter")).display().to_string();
        let spec = LoraSpec::from_peft(&place, &adapter, config)?;
        let layout = AdapterLayout::new(&spec, config);
        let start = start.map(|tensors| layout.pack(&place, &tensors)).transpose()?;

        // A packed row may be longer than the model's context; a record in it may not.
        let longest = options.max_length.min(config.max_position_embeddings);
        let load = |path: &PathBuf| -> Result<Dataset> {
            let data = data::load(path, &model.tokenizer, model.template.as_ref(), longest)?;
            data.check_vocabulary(config.vocab_size)?;
            Ok(data)
        };
        let data = load(&options.data)?;
        let eval_data = options.eval_data.as_ref().map(load).transpose()?;
        let sampler = Sampler::new(&data, sampler_options(&options))?;
        let total_steps = options.max_steps.unwrap_or_else(|| steps_of_epochs(&sampler, &options));
        let schedule = Schedule::new(options.lr_schedule, options.learning_rate, options.warmup_steps, total_steps);
        let weights = WeightStorage::weight_type(options.weights);
        let storage = |name: &str| model.files.tensors.find(name).map_or(DType::F32, |info| weights.of(info));
        let accumulate = options.gradient_accumulation_steps > 1;
        let held_out_tokens = match &eval_data {
            Some(held_out) => Sampler::new(held_out, in_order(&options))?.max_rows(),
            None => 0,
        };
        let shape = StepShape { max_tokens: sampler.max_rows(), accumulate, recompute: Recompute::None, held_out_tokens };
        // The device is not known yet; one with no more than WebGPU asks for needs the most kernel calls.
        let planner = Planner::new(config, &storage, &spec, shape, model.weight_bytes(weights), &Facts::default())?;
        let planner = budget::within_budget(planner, options.recompute, options.memory_budget)?;
        Ok(Self { options, data, eval_data, adapter, total_steps, model, spec, layout, start, sampler, schedule, planner })
    }

    /// Numbers that the run trains.
    pub fn trained_parameters(&self) -> usize {
        self.layout.parameters()
    }

    /// What the run will occupy on the device; known without one.
    pub fn memory(&self) -> Memory {
        self.planner.memory()
    }

    /// The storage type that `--weights` asks for.
    pub fn weight_type(&self) -> WeightType {
        WeightStorage::weight_type(self.options.weights)
    }

    /// The first `records` as the model will see them, the report on the data, and what the run would be. `color`: for a terminal.
    pub fn preview(&self, records: usize, color: bool) -> String {
        let preview = data::preview(&self.data, &self.model.tokenizer, records, color);
        format!("{preview}\n{}", self.summary())
    }

    /// What will be trained, for how many steps, and what it will occupy.
    pub fn summary(&self) -> String {
        let Memory { weights, adapters, optimizer, activations, inputs, evaluation } = self.memory();
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let layers = match &self.adapter.layers_to_transform {
            Some(layers) => format!("{} of {} layers", layers.len(), self.model.files.config.num_hidden_layers),
            None => format!("all {} layers", self.model.files.config.num_hidden_layers),
        };
        format!(
            "{}: {} in {layers}, rank {}, {} parameters\n\
             {} examples, {} supervised of {} tokens; {} steps\n\
             GPU memory: {:.0} MiB (weights {:.0}, adapter and optimizer {:.0}, activations {:.0})\n{}",
            self.model.files.name,
            self.adapter.target_modules.join(", "),
            self.adapter.r,
            self.trained_parameters(),
            self.data.report.examples,
            self.data.report.supervised_tokens,
            self.data.report.tokens,
            self.total_steps,
            mib(self.memory().total()),
            mib(weights),
            mib(adapters + optimizer),
            mib(activations + inputs + evaluation),
            self.recompute_summary(),
        )
    }

    /// What is computed again, what that saves and what it costs; empty if nothing is.
    fn recompute_summary(&self) -> String {
        let Recompute::Layers(count) = self.planner.shape().recompute else { return String::new() };
        let kept = self.planner.clone().with(Recompute::None).memory();
        let layers = self.planner.layers();
        format!(
            "recompute: {} of {layers} layers, {:.0} MiB of activations less for {:.1} % more arithmetic\n",
            count.min(layers),
            (kept.activations as f64 - self.memory().activations as f64) / f64::from(1 << 20),
            100.0 * self.planner.extra_flops(),
        )
    }

    /// Makes and locks the output folder, and finds what to go on from.
    ///
    /// # Errors
    /// Bad input: the folder cannot be written; it holds a run and `--resume` is not given; the checkpoint is of a run with other
    /// options. Failed: another process holds the folder.
    pub fn open_output(&self) -> Result<Output> {
        let out = &self.options.out;
        std::fs::create_dir_all(out).map_err(|error| {
            let problem = format!("cannot make this folder: {error}");
            Error::bad_input(out.display(), problem, "give --out a folder that you may write to")
        })?;
        let lock = FolderLock::acquire(out)?;
        checkpoint::remove_leftovers(out)?;
        let fingerprint = self.fingerprint()?;
        let found = checkpoint::latest(out)?;
        match &found {
            Some((folder, state)) if self.options.resume => state.check_same_run(folder, &fingerprint)?,
            Some((folder, state)) => {
                let problem = format!("holds a run already ({}, step {})", folder.display(), state.step);
                let proposal = "go on with it by --resume, or give another --out";
                return Err(Error::bad_input(out.display(), problem, proposal));
            }
            None => {}
        }
        let checkpoint = found.map(|(folder, _)| Checkpoint::load(&folder, &self.layout)).transpose()?;
        let state = checkpoint.as_ref().map_or_else(|| RunState::start(fingerprint), |checkpoint| checkpoint.state.clone());
        Ok(Output { lock, state, checkpoint })
    }

    /// Puts the run on the device that holds the weights.
    ///
    /// # Errors
    /// Failed: the device has not the memory.
    pub fn start(self, weights: Arc<DeviceWeights>, output: Output, interrupt: Interrupt, progress: Progress) -> Result<Run> {
        let config = &self.model.files.config;
        let Self { options, data, adapter, total_steps, spec, layout, start, mut sampler, schedule, planner, .. } = self;
        let Output { lock, state, checkpoint } = output;
        let device = weights.device().clone();
        let on_device = match &start {
            Some(contents) => DeviceAdapter::new(device, spec, layout, contents)?,
            None => DeviceAdapter::fresh(device, spec, config, options.seed)?,
        };
        let mut trainer = Trainer::new(weights.clone(), config, on_device, planner.shape(), options.seed)?;
        let held_out = match self.eval_data {
            Some(held_out) => {
                let sampler = Sampler::new(&held_out, in_order(&options))?;
                let evaluator = Evaluator::between_steps(&trainer, weights, config, sampler.max_rows())?;
                let batches = sampler.plan_of(0).iter().map(|chosen| Batch::assemble(&held_out.examples, chosen)).collect();
                Some(HeldOut { evaluator, batches })
            }
            None => None,
        };
        if let Some(Checkpoint { state, adapter, moments: [first, second] }) = &checkpoint {
            sampler.seek(state.position)?;
            trainer.restore(adapter, [first, second], state.batches);
        }
        let metrics = MetricsLog::open(&options.out, state.step)?;
        let eval_steps = options.eval_steps.unwrap_or(total_steps.div_ceil(10).max(1));
        Ok(Run {
            options,
            trainer,
            adapter,
            data,
            sampler,
            held_out,
            schedule,
            total_steps,
            eval_steps,
            state,
            metrics,
            progress,
            interrupt,
            unsettled: None,
            since: std::time::Instant::now(),
            profile: None,
            _lock: lock,
        })
    }

    /// All that the numbers of the run depend on, by name.
    fn fingerprint(&self) -> Result<std::collections::BTreeMap<String, String>> {
        let mut print = self.options.fingerprint(self.schedule.warmup_steps(), self.total_steps);
        let AdapterConfig { r, lora_alpha, lora_dropout, target_modules, layers_to_transform, use_rslora, .. } = &self.adapter;
        let layers = layers_to_transform.as_ref().map_or("all".to_string(), |layers| format!("{layers:?}"));
        let start = self.start.as_ref().map_or("none".to_string(), |contents| {
            let digest = Sha256::digest(bytemuck::cast_slice::<f32, u8>(contents));
            digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
        });
        let more = [
            ("model (content)", self.model.fingerprint()?),
            ("data (content)", self.data.fingerprint()),
            ("lora_r", r.to_string()),
            ("lora_alpha", lora_alpha.to_string()),
            ("lora_dropout", lora_dropout.to_string()),
            ("use_rslora", use_rslora.to_string()),
            ("target_modules", target_modules.join(",")),
            ("layers", layers),
            ("init_adapter (content)", start),
        ];
        print.extend(more.map(|(name, value)| (name.to_string(), value)));
        Ok(print)
    }
}

/// The output folder, held by this process, and where the run in it stands.
pub struct Output {
    lock: FolderLock,
    state: RunState,
    checkpoint: Option<Checkpoint>,
}

impl Output {
    /// Steps that are done already.
    pub fn steps_done(&self) -> u64 {
        self.state.step
    }
}

fn sampler_options(options: &TrainOptions) -> SamplerOptions {
    let &TrainOptions { batch_size, max_length, packing, shuffle, seed, .. } = options;
    SamplerOptions { batch_size, max_length, packing, shuffle, seed }
}

/// Held-out data is read in its own order.
fn in_order(options: &TrainOptions) -> SamplerOptions {
    SamplerOptions { shuffle: false, ..sampler_options(options) }
}

fn steps_of_epochs(sampler: &Sampler, options: &TrainOptions) -> u64 {
    let steps = |epoch| sampler.batches_in_epoch(epoch).div_ceil(options.gradient_accumulation_steps) as u64;
    // Only packing in shuffled order makes epochs that differ.
    match options.packing && options.shuffle {
        true => (0..options.epochs).map(steps).sum(),
        false => steps(0).saturating_mul(options.epochs),
    }
}

/// Largest rank that is believed; it keeps sizes far from overflow.
const LARGEST_RANK: usize = 1 << 16;

/// What the adapter is and, with `--init-adapter`, how it starts.
fn adapter_of(options: &TrainOptions, model: &OpenModel) -> Result<(AdapterConfig, Option<Vec<AdapterTensor>>)> {
    let config = &model.files.config;
    let modules = options.target_modules.as_ref().map(|names| expand_target_modules(names)).transpose()?;
    let layers = options.layers.as_ref().map(|text| parse_layers(text, config.num_hidden_layers)).transpose()?;
    let all: Vec<usize> = (0..config.num_hidden_layers).collect();
    let Some(folder) = &options.init_adapter else {
        let r = options.lora_r.unwrap_or(TrainOptions::LORA_R);
        if r > LARGEST_RANK {
            let problem = format!("{r} is no rank: no model has a dimension above {LARGEST_RANK}");
            return Err(Error::bad_input("--lora-r", problem, "give a small rank, such as 16"));
        }
        let adapter = AdapterConfig {
            r,
            lora_alpha: options.lora_alpha.unwrap_or(TrainOptions::LORA_ALPHA),
            lora_dropout: options.lora_dropout.unwrap_or(0.0),
            target_modules: match modules {
                Some(modules) => modules,
                None => expand_target_modules(&[TrainOptions::TARGET_MODULES.to_string()])?,
            },
            layers_to_transform: layers.filter(|layers| *layers != all),
            base_model: Some(options.model.clone()),
            use_rslora: false,
        };
        return Ok((adapter, None));
    };
    let (mut adapter, tensors) = peft::load_adapter(folder)?;
    let agree = |option: &str, same: bool, of_adapter: String| match same {
        true => Ok(()),
        false => {
            let problem = format!("the adapter of --init-adapter {} has {of_adapter}", folder.display());
            Err(Error::bad_input(option, problem, "leave this option out, or start from another adapter"))
        }
    };
    agree("--lora-r", options.lora_r.is_none_or(|r| r == adapter.r), format!("rank {}", adapter.r))?;
    let alpha = adapter.lora_alpha;
    agree("--lora-alpha", options.lora_alpha.is_none_or(|given| given == alpha), format!("alpha {alpha}"))?;
    let sorted = |mut names: Vec<String>| {
        names.sort_unstable();
        names
    };
    let (of_adapter, given) = (sorted(adapter.target_modules.clone()), modules.map(sorted));
    let same = given.is_none_or(|given| given == of_adapter);
    agree("--target-modules", same, format!("the modules {}", of_adapter.join(", ")))?;
    let of_adapter = adapter.layers_to_transform.clone().unwrap_or(all);
    agree("--layers", layers.is_none_or(|given| given == of_adapter), format!("the layers {of_adapter:?}"))?;
    adapter.lora_dropout = options.lora_dropout.unwrap_or(adapter.lora_dropout);
    adapter.base_model = Some(options.model.clone());
    Ok((adapter, Some(tensors)))
}
