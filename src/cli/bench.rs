//! `graftling bench`: how fast this machine trains a model, and where the time of a step goes.

use super::DeviceArgs;
use clap::Args;
use graftling::adapter::targets::{expand_target_modules, parse_layers};
use graftling::adapter::{DeviceAdapter, LoraSpec};
use graftling::data::{Batch, Example};
use graftling::model::opened::OpenModel;
use graftling::ops::Random;
use graftling::ops::adamw::Hyper;
use graftling::plan::Timing;
use graftling::train::budget::RecomputeOption;
use graftling::train::memory::StepShape;
use graftling::train::options::WeightStorage;
use graftling::train::step::LossGraph;
use graftling::train::trainer::Trainer;
use graftling::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;

/// Measure training steps: tokens per second, time by kernel, memory by class
///
/// Steps run on random tokens, all supervised. The table by kernel comes from the GPU's own timestamps, in a run of its own.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  graftling bench --model SmolLM2-135M-Instruct.Q4_1.gguf
  graftling bench --model my-model --batch-size 1 --max-length 512 --target-modules attention --json
  graftling bench --model my-model --trace step.json    (open it in chrome://tracing or ui.perfetto.dev)")]
pub struct BenchArgs {
    /// Model: a folder, a .gguf file, or a Hugging Face name
    #[arg(long, value_name = "M")]
    model: String,
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
    /// Write the timed dispatches of a step as a Chrome trace
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Only show which matrix kernels this GPU uses for such steps, and what was measured
    #[arg(long)]
    tuning: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the command.
///
/// # Errors
/// Bad input in model or options; the GPU failed.
pub fn run(args: BenchArgs) -> Result<()> {
    if args.batch_size == 0 || args.max_length < 2 || args.steps == 0 || args.lora_r == 0 {
        let problem = "--batch-size, --steps and --lora-r must be at least 1, --max-length at least 2";
        return Err(Error::bad_input("options", problem, "leave them out for 4 sequences of 128 tokens, 3 steps, rank 8"));
    }
    let Some(recompute) = args.recompute.fixed() else {
        let problem = "there is no memory budget to choose by";
        return Err(Error::bad_input("--recompute auto", problem, "give none, all or a number of layers"));
    };
    let model = OpenModel::open(&args.model)?;
    let config = &model.files.config;
    let layers = match &args.layers {
        Some(layers) => parse_layers(layers, config.num_hidden_layers)?,
        None => (0..config.num_hidden_layers).collect(),
    };
    let spec = LoraSpec {
        r: args.lora_r,
        scale: 2.0,
        dropout: 0.0,
        target_modules: expand_target_modules(&args.target_modules)?,
        layers,
    };
    let weight_type = WeightStorage::weight_type(args.device.weights);
    let batch = random_batch(&args, config.vocab_size);
    let graph = LossGraph::build(config, &model.storage(weight_type), &spec, batch.rows())?.model.graph;
    let (device, choices) = args.device.open(&[graph])?;
    if args.tuning {
        return super::tuning::print(&choices, args.json);
    }
    let weights = super::upload(&model, weight_type, device.clone())?;
    let adapter = DeviceAdapter::fresh(device.clone(), spec, config, 0)?;
    let parameters = adapter.layout.parameters();
    let shape = StepShape { max_tokens: batch.rows(), accumulate: false, recompute, held_out_tokens: 0 };
    let mut trainer = Trainer::new(weights, config, adapter, shape, 0, None)?;
    let mut seconds: Vec<f64> = Vec::new();
    for step in 0..=args.steps {
        let started = Instant::now();
        trainer.accumulate(&batch, 1.0 / batch.targets.len() as f64, true)?;
        trainer.apply(&Hyper { step: step as u64 + 1, ..HYPER })?;
        if step > 0 {
            seconds.push(started.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    // Not every device has timestamps; the rest of the report stands without.
    let timings = trainer.profile(&batch).unwrap_or_default();
    if let Some(path) = &args.trace {
        let events: Vec<Value> = timings.iter().map(trace_event).collect();
        let text = json!({ "traceEvents": events }).to_string();
        graftling::formats::atomic::write_atomically(path, text.as_bytes())?;
    }
    let report = Report { median, seconds, timings, batch: &batch, trainer: &trainer, parameters, device: &device.info };
    super::print(&if args.json { format!("{:#}\n", report.json()) } else { report.text() })
}

const HYPER: Hyper =
    Hyper { learning_rate: 1e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step: 1, max_grad_norm: 1.0 };

fn random_batch(args: &BenchArgs, vocabulary: usize) -> Batch {
    let mut random = Random(1);
    let examples: Vec<Example> = (0..args.batch_size)
        .map(|_| {
            let input_ids: Vec<u32> = (0..args.max_length).map(|_| random.below(vocabulary) as u32).collect();
            Example { labels: input_ids.iter().copied().map(Some).collect(), input_ids, line: 1 }
        })
        .collect();
    Batch::assemble(&examples, &(0..examples.len()).collect::<Vec<_>>())
}

fn trace_event(timing: &Timing) -> Value {
    json!({
        "name": timing.kernel, "ph": "X", "pid": 1, "tid": 1,
        "ts": timing.start_seconds * 1e6, "dur": timing.seconds * 1e6,
        "args": { "node": timing.node, "gflops": timing.flops / timing.seconds.max(1e-9) * 1e-9 },
    })
}

struct Report<'a> {
    median: f64,
    seconds: Vec<f64>,
    timings: Vec<Timing>,
    batch: &'a Batch,
    trainer: &'a Trainer,
    parameters: usize,
    device: &'a wgpu::AdapterInfo,
}

/// Calls, seconds and floating-point operations of one kernel.
type ByKernel = BTreeMap<&'static str, (usize, f64, f64)>;

impl Report<'_> {
    fn by_kernel(&self) -> Vec<(&'static str, usize, f64, f64)> {
        let mut kernels = ByKernel::new();
        for timing in &self.timings {
            let entry = kernels.entry(timing.kernel).or_default();
            *entry = (entry.0 + 1, entry.1 + timing.seconds, entry.2 + timing.flops);
        }
        let mut rows: Vec<_> = kernels.into_iter().map(|(name, (calls, seconds, flops))| (name, calls, seconds, flops)).collect();
        rows.sort_by(|a, b| b.2.total_cmp(&a.2));
        rows
    }

    fn json(&self) -> Value {
        let kernels: Vec<Value> = self
            .by_kernel()
            .into_iter()
            .map(|(name, calls, seconds, flops)| json!({ "kernel": name, "calls": calls, "seconds": seconds, "flops": flops }))
            .collect();
        json!({
            "device": self.device.name,
            "driver": self.device.driver_info,
            "tokens": self.batch.rows(),
            "trained_parameters": self.parameters,
            "step_seconds": self.seconds,
            "median_step_seconds": self.median,
            "tokens_per_second": self.batch.rows() as f64 / self.median,
            "dispatches": self.trainer.dispatches(),
            "gpu_bytes": self.trainer.memory(),
            "kernels": kernels,
        })
    }

    fn text(&self) -> String {
        const MIB: f64 = (1 << 20) as f64;
        let memory = self.trainer.memory();
        let mut text = format!("{} ({})\n", self.device.name, self.device.driver_info);
        let tokens = self.batch.rows();
        let _ = writeln!(
            text,
            "{tokens} tokens a step, {} trained parameters: median step {:.3} s, {:.1} tokens/s, {} dispatches",
            self.parameters,
            self.median,
            tokens as f64 / self.median,
            self.trainer.dispatches(),
        );
        let _ = writeln!(
            text,
            "GPU memory: {:.0} MiB (weights {:.0}, adapter {:.0}, optimizer {:.0}, activations {:.0}, inputs {:.0})",
            memory.total() as f64 / MIB,
            memory.weights as f64 / MIB,
            memory.adapters as f64 / MIB,
            memory.optimizer as f64 / MIB,
            memory.activations as f64 / MIB,
            memory.inputs as f64 / MIB,
        );
        let total: f64 = self.timings.iter().map(|timing| timing.seconds).sum();
        if total == 0.0 {
            text.push_str("no timestamps on this device, so no table by kernel\n");
            return text;
        }
        let _ = writeln!(text, "\n{:<38} {:>6} {:>10} {:>7} {:>9}", "kernel", "calls", "ms", "share", "GFLOP/s");
        for (name, calls, seconds, flops) in self.by_kernel() {
            let (milliseconds, share) = (seconds * 1e3, 100.0 * seconds / total);
            let _ = writeln!(
                text,
                "{name:<38} {calls:>6} {milliseconds:>10.2} {share:>6.1}% {:>9.1}",
                flops / seconds.max(1e-9) * 1e-9
            );
        }
        text
    }
}
