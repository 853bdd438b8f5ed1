//! `graftling bench`: what this machine can do, how near the kernels come to it, and how fast a model trains and generates here.

use super::DeviceArgs;
use clap::{Args, ValueEnum};
use graftling::adapter::UniformLora;
use graftling::adapter::targets::{expand_target_modules, parse_layers};
use graftling::architecture::Architecture;
use graftling::architecture::known;
use graftling::bench::report::{Report, Table};
use graftling::bench::speed::Speed;
use graftling::bench::{formats, generation, kernels, step, sum};
use graftling::formats::atomic::write_atomically;
use graftling::gpu::Device;
use graftling::graph::{DType, Graph};
use graftling::model::weights::WeightType;
use graftling::plan::timings;
use graftling::ranks::Ranks;
use graftling::session::{self, OpenModel};
use graftling::storage::TensorInfo;
use graftling::terminal;
use graftling::train::budget::RecomputeOption;
use graftling::train::prepare;
use graftling::train::step::{LossGraph, Recompute};
use graftling::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Measure this machine: peak, bandwidth, every kernel, and with --model training steps and generation
///
/// Kernels are measured at the shapes of SmolLM2-135M, TinyLlama-1.1B and Llama-3.2-3B, for which no model file is needed, and of
/// --model. Where a shape would take too long on this device it is measured with fewer rows, and the table says so. Training
/// steps run on random tokens, all supervised.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  graftling bench --quick
  graftling bench --model SmolLM2-135M-Instruct.Q4_1.gguf
  graftling bench --model my-model --only step --batch-size 1 --max-length 512 --target-modules attention --json
  graftling bench --model my-model --only step --trace step.json    (open it in ui.perfetto.dev or chrome://tracing)
  graftling bench --model my-model --formats bf16,q8_0,q4_k,nf4
  mpirun -n 4 graftling bench --sum")]
pub struct BenchArgs {
    /// Model: a folder, a .gguf file, or a Hugging Face name
    #[arg(long, value_name = "M")]
    model: Option<String>,
    /// Measure less: device (peak and bandwidth, always measured), kernels, step, generation [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PARTS")]
    only: Vec<Part>,
    /// Spend a fifth of the time on each kernel, and on one model's shapes alone (of --sum: measure the smallest adapter alone)
    #[arg(long)]
    quick: bool,
    /// Sequences a step
    #[arg(long, default_value_t = 4, value_name = "N")]
    batch_size: usize,
    /// Tokens a sequence
    #[arg(long, default_value_t = 128, value_name = "TOKENS")]
    max_length: usize,
    /// Rank of the adapters
    #[arg(long, default_value_t = 8, value_name = "R")]
    lora_r: usize,
    /// Modules to adapt, as for `train`
    #[arg(long, value_delimiter = ',', default_value = "all-linear", value_name = "NAMES")]
    target_modules: Vec<String>,
    /// Layers to adapt, as for `train` [default: all]
    #[arg(long, value_name = "LAYERS")]
    layers: Option<String>,
    /// Layers whose activations are computed again: none, all or a number, as for `train`
    #[arg(long, default_value = "none", value_name = "LAYERS")]
    recompute: RecomputeOption,
    /// Timed steps, after one that is not counted
    #[arg(long, default_value_t = 3, value_name = "N")]
    steps: usize,
    /// Only train the same steps with the weights in each of these formats, in turn, and compare them with the first
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FORMATS", requires = "model", conflicts_with_all = ["only", "trace", "tuning", "weights"])]
    formats: Vec<DType>,
    /// Only measure what it costs to add up gradients over the ranks of a run, which mpirun starts: for adapters of three sizes of models
    #[arg(long, conflicts_with_all = ["model", "only", "formats", "trace", "tuning", "weights"])]
    sum: bool,
    /// Write the dispatches of a step as a Chrome trace
    #[arg(long, value_name = "FILE", requires = "model")]
    trace: Option<PathBuf>,
    /// Only show which matrix kernels this GPU uses for such steps, and what was measured
    #[arg(long, requires = "model")]
    tuning: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Part {
    Device,
    Kernels,
    Step,
    Generation,
}

/// Time for a line of a table, a fifth of it with `--quick`.
const LINE: Duration = Duration::from_millis(200);
/// Time for generating tokens.
const GENERATION: Duration = Duration::from_secs(3);

/// Runs the command.
///
/// # Errors
/// Bad input in model or options; the GPU failed.
pub fn run(args: BenchArgs) -> Result<()> {
    if args.sum {
        let ranks = Ranks::join()?;
        let done = args.measure_sum(&ranks);
        return ranks.end_all(done);
    }
    let model = args.check()?;
    if let Some(model) = model.as_ref().filter(|_| !args.formats.is_empty()) {
        return args.compare_formats(model);
    }
    let (place, choices) = args.device.open(&args.step_graphs(model.as_ref(), &[args.weight_type()])?)?;
    if args.tuning {
        return super::tuning::print(&choices, args.json);
    }
    let mut plan = Vec::new();
    if args.wants(Part::Kernels) {
        plan.extend(known::configs()?.into_iter().take(if args.quick { 1 } else { 3 }));
    }
    let bar = Bar::new();
    let budget = if args.quick { LINE / 5 } else { LINE };
    bar.says("peak and bandwidth");
    let device = &place.device;
    let speed = Speed::measure(device, budget)?;
    let storage = args.storage(model.as_ref());
    let options = kernels::Options { rows: args.batch_size * args.max_length, storage, r: args.lora_r, budget };
    let mut measured = kernels::Tables::new(place.clone(), speed.roofline, options);
    let mut tables = Vec::new();
    let mut table = |name: &str, config: &Architecture, wanted: fn(&str) -> bool| -> Result<Table> {
        bar.lengthen(measured.lines(config));
        let lines = measured.measure(config, wanted, |line| bar.did(&format!("{name}: {}", line.name)))?;
        Ok(Table { model: name.to_owned(), lines })
    };
    // The model's own shapes take the place of a known model's, where they are the same.
    let own = model.as_ref().map(|model| &model.files.config);
    for (name, config) in &plan {
        if own.is_none_or(|own| !same_layer(own, config)) {
            tables.push(table(name, config, |_| true)?);
        }
    }
    let mut report = Report {
        device: device.info.name.clone(),
        driver: device.info.driver_info.clone(),
        backend: device.info.backend.to_string(),
        cpu_driver: device.facts.cpu_driver,
        matmul: device.facts.arithmetic,
        speed,
        tables: Vec::new(),
        step: None,
        step_kernels: Vec::new(),
        generation: None,
    };
    if let Some(model) = &model {
        let (name, config) = (&model.files.name, &model.files.config);
        let mut best_product = None;
        if args.wants(Part::Kernels) {
            let own = table(name, config, |_| true)?;
            best_product = measured.best_product(config, &own.lines)?;
            tables.push(own);
        } else if args.wants(Part::Step) {
            // The frozen layers' products are the large ones, one of which is the best.
            let own = table(name, config, |line| line.starts_with("matmul") && line.contains("_proj"))?;
            best_product = measured.best_product(config, &own.lines)?;
        }
        bar.hide();
        if args.wants(Part::Step) || args.wants(Part::Generation) {
            let weights = super::with_bars(|bars| session::send(model, place.clone(), args.weight_type(), bars))?;
            let bar = Bar::new();
            if args.wants(Part::Step) {
                let options = args.step_options(config)?;
                bar.lengthen(args.steps + 2);
                let step = step::measure(weights.clone(), config, &options, best_product, || bar.did("training steps"))?;
                report.step_kernels = timings::by_kernel(&step.timings);
                report.step = Some(step);
            }
            if args.wants(Part::Generation) {
                bar.says("generation");
                report.generation = Some(generation::measure(&weights, config, GENERATION)?);
            }
            bar.hide();
        }
    }
    report.tables = tables;
    if let (Some(path), Some(step)) = (&args.trace, &report.step) {
        write_atomically(path, timings::chrome_trace(&step.timings).to_string().as_bytes())?;
    }
    match args.json {
        true => super::print_json(&json!(report)),
        false => super::print(&report.text()),
    }
}

impl BenchArgs {
    /// Checks the options, and opens the model if there is one.
    fn check(&self) -> Result<Option<OpenModel>> {
        if self.batch_size == 0 || self.max_length < 2 || self.steps == 0 || self.lora_r == 0 {
            let problem = "--batch-size, --steps and --lora-r must be at least 1, --max-length at least 2";
            return Err(Error::bad_input("options", problem, "leave them out for 4 sequences of 128 tokens, 3 steps, rank 8"));
        }
        if self.model.is_none() && self.only.iter().any(|part| matches!(part, Part::Step | Part::Generation)) {
            return Err(Error::bad_input("--only", "steps and generation are those of a model", "give one with --model"));
        }
        let model = self.model.as_deref().map(OpenModel::open).transpose()?;
        if let Some(model) = &model {
            self.lora(&model.files.config)?;
        }
        self.recompute()?;
        Ok(model)
    }

    /// What the kernels are chosen for: the step of the model, if there is one, with its weights in each of these types.
    fn step_graphs(&self, model: Option<&OpenModel>, weights: &[WeightType]) -> Result<Vec<Graph>> {
        let Some(model) = model else { return Ok(Vec::new()) };
        let config = &model.files.config;
        let adapter = self.lora(config)?.on(config);
        let graph = |weights: &WeightType| {
            let loss = LossGraph::build(config, &model.storage(*weights), &adapter, self.batch_size * self.max_length)?;
            Ok(loss.model.graph)
        };
        weights.iter().map(graph).collect()
    }

    fn step_options(&self, config: &Architecture) -> Result<step::Options> {
        Ok(step::Options {
            lora: self.lora(config)?,
            recompute: self.recompute()?,
            batch_size: self.batch_size,
            max_length: self.max_length,
            steps: self.steps,
        })
    }

    /// Steps with the weights in each of the formats asked for, and nothing else.
    fn compare_formats(&self, model: &OpenModel) -> Result<()> {
        let config = &model.files.config;
        let types: Vec<WeightType> =
            self.formats.iter().map(|&format| WeightType::asked(Some(format), !self.device.no_double_quant)).collect();
        let (place, _) = self.device.open(&self.step_graphs(Some(model), &types)?)?;
        let mut weights = Vec::new();
        for (&format, &weight_type) in self.formats.iter().zip(&types) {
            weights.push((format, super::with_bars(|bars| session::send(model, place.clone(), weight_type, bars))?));
        }
        let bar = Bar::new();
        bar.lengthen(self.formats.len() * (self.steps + 1));
        let steps = formats::compare(weights, config, &self.step_options(config)?, || bar.did("training steps"))?;
        bar.hide();
        match self.json {
            true => {
                let device = &place.device.info;
                super::print_json(&json!({ "device": device.name, "driver": device.driver_info, "formats": steps }))
            }
            false => super::print(&formats::text(&steps)),
        }
    }

    /// What it costs to add up gradients over these ranks; the first one tells.
    fn measure_sum(&self, ranks: &Ranks) -> Result<()> {
        let choice = prepare::device_choice(self.device.device.as_deref(), ranks);
        let device = Arc::new(ranks.agree(Device::open_for(choice.as_deref(), self.device.matmul))?);
        let report = sum::measure(ranks, &device, if self.quick { 1 } else { usize::MAX })?;
        match (ranks.is_first(), self.json) {
            (true, true) => super::print_json(&json!(report)),
            (true, false) => super::print(&report.text()),
            (false, _) => Ok(()),
        }
    }

    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn weight_type(&self) -> WeightType {
        self.device.weight_type()
    }

    /// DType of the matrices in the tables: as they will rest on the device. Without a model, those of a file in bf16, as most are.
    fn storage(&self, model: Option<&OpenModel>) -> DType {
        let of_model = model.and_then(|model| model.files.tensors.find("model.layers.0.self_attn.q_proj.weight"));
        let usual = TensorInfo { name: String::new(), shape: vec![32, 32], storage: DType::BF16, bytes: 0 };
        self.weight_type().of(of_model.unwrap_or(&usual))
    }

    fn recompute(&self) -> Result<Recompute> {
        let problem = "there is no memory budget to choose by";
        self.recompute
            .fixed()
            .ok_or_else(|| Error::bad_input("--recompute auto", problem, "give none, all or a number of layers"))
    }

    fn lora(&self, config: &Architecture) -> Result<UniformLora> {
        let mut lora = step::lora(self.lora_r, config);
        lora.target_modules = expand_target_modules(&self.target_modules, config)?;
        if let Some(layers) = &self.layers {
            lora.layers = parse_layers(layers, config.num_hidden_layers)?;
        }
        Ok(lora)
    }
}

/// Do these models have kernels of the same shapes?
fn same_layer(a: &Architecture, b: &Architecture) -> bool {
    let sizes = |config: &Architecture| {
        let heads = [config.num_attention_heads, config.num_key_value_heads, config.head_dim];
        (config.vocab_size, config.hidden_size, config.intermediate_size, heads)
    };
    sizes(a) == sizes(b)
}

/// A bar on standard error while something is measured; nothing where that is no terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("measuring {bar:28} {pos}/{len}  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }

    fn lengthen(&self, lines: usize) {
        self.0.inc_length(lines as u64);
    }

    fn says(&self, what: &str) {
        self.0.set_message(terminal::shown(what).into_owned());
    }

    fn did(&self, what: &str) {
        self.says(what);
        self.0.inc(1);
    }

    fn hide(&self) {
        self.0.finish_and_clear();
    }
}
