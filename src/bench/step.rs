//! Training steps of a model on random tokens: their time, what the host does meanwhile, and how much of it is matmul.

use super::kernels::Product;
use crate::Result;
use crate::adapter::{DeviceAdapter, UniformLora};
use crate::architecture::Architecture;
use crate::architecture::linear_modules;
use crate::data::{Batch, Example};
use crate::graph::{Counts, Graph};
use crate::model::weights::DeviceWeights;
use crate::ops::Random;
use crate::ops::adamw::Hyper;
use crate::plan::Timing;
use crate::train::memory::{Memory, StepShape};
use crate::train::step::Recompute;
use crate::train::trainer::Trainer;
use std::sync::Arc;
use std::time::Instant;

/// What is trained, and how many steps are timed.
#[derive(Clone, Debug)]
pub struct Options {
    pub lora: UniformLora,
    /// Layers whose activations are computed again; the matmuls of that count as the step's.
    pub recompute: Recompute,
    /// Sequences a step.
    pub batch_size: usize,
    /// Tokens a sequence.
    pub max_length: usize,
    /// Timed steps, after one that is not counted.
    pub steps: usize,
}

/// What the steps took.
#[derive(Clone, Debug, serde::Serialize)]
pub struct StepReport {
    pub tokens: usize,
    pub trained_parameters: usize,
    pub step_seconds: Vec<f64>,
    pub median_step_seconds: f64,
    pub tokens_per_second: f64,
    /// Median time in which the host encoded a step.
    pub encode_seconds: f64,
    /// Median processor time of the host's thread in a step, where the system tells it. On a driver that runs on the CPU it is far below
    /// `encode_seconds`: the kernels of the slice before take the processor away from the host while it encodes the next.
    pub host_cpu_seconds: Option<f64>,
    /// Median time in which it handed the step over. A driver that runs on the CPU may do the step's work in it.
    pub submit_seconds: f64,
    pub dispatches: usize,
    pub gpu_bytes: Memory,
    /// Floating-point operations of the step's matmuls, those in the loss included.
    pub matmul_flops: f64,
    /// The rate of the model's best matmul, averaged over a short while before each step, since a machine's speed changes from minute to
    /// minute; of these, the median.
    pub matmul_flops_per_second: Option<f64>,
    /// The time that the step's matmuls need at that rate, divided by the step's time.
    pub step_efficiency: Option<f64>,
    /// Dispatches of one more step, by the device's clock; empty where it has none.
    #[serde(skip)]
    pub timings: Vec<Timing>,
}

/// A rank for all linear modules in all layers.
pub fn lora(r: usize, config: &Architecture) -> UniformLora {
    UniformLora {
        r,
        scale: 2.0,
        dropout: 0.0,
        target_modules: linear_modules(config).iter().map(|site| site.module.to_owned()).collect(),
        layers: (0..config.num_hidden_layers).collect(),
    }
}

/// AdamW with its usual numbers.
pub fn hyper(step: u64) -> Hyper {
    Hyper { learning_rate: 1e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step, max_grad_norm: 1.0 }
}

/// Sequences of random tokens, all supervised.
pub fn random_batch(batch_size: usize, max_length: usize, vocabulary: usize) -> Batch {
    let mut random = Random(1);
    let examples: Vec<Example> = (0..batch_size)
        .map(|_| {
            let input_ids: Vec<u32> = (0..max_length).map(|_| random.below(vocabulary) as u32).collect();
            Example { labels: input_ids.iter().copied().map(Some).collect(), input_ids, line: 1 }
        })
        .collect();
    Batch::assemble(&examples, &(0..examples.len()).collect::<Vec<_>>())
}

/// Trains a few steps, and times `product`, the model's best, before each; `each` is told every step as it comes.
///
/// # Errors
/// If the device has not the memory, or is lost.
pub fn measure(
    weights: Arc<DeviceWeights>,
    config: &Architecture,
    options: &Options,
    mut product: Option<Product>,
    mut each: impl FnMut(),
) -> Result<StepReport> {
    let device = weights.device().clone();
    let adapter = DeviceAdapter::fresh(device.clone(), options.lora.on(config), 0)?;
    let trained_parameters = adapter.layout.parameters();
    let batch = random_batch(options.batch_size, options.max_length, config.vocab_size);
    let (max_tokens, recompute) = (batch.rows(), options.recompute);
    let shape = StepShape { max_tokens, accumulate: false, recompute, held_out_tokens: 0 };
    let mut trainer = Trainer::new(weights, config, adapter, shape, 0, None)?;
    let (mut step_seconds, mut encode_seconds, mut submit_seconds) = (Vec::new(), Vec::new(), Vec::new());
    let mut host_cpu_seconds = Vec::new();
    let mut rates = Vec::new();
    for step in 0..=options.steps {
        if let Some(product) = product.as_mut().filter(|_| step > 0) {
            rates.push(product.rate()?);
        }
        let (started, before, cpu) = (Instant::now(), device.spent(), thread_cpu_seconds());
        train_one(&mut trainer, &batch, step as u64 + 1)?;
        let took = started.elapsed();
        if step > 0 {
            let (waiting, submitting) = (device.spent().waiting - before.waiting, device.spent().submitting - before.submitting);
            step_seconds.push(took.as_secs_f64());
            encode_seconds.push(took.saturating_sub(waiting + submitting).as_secs_f64());
            submit_seconds.push(submitting.as_secs_f64());
            host_cpu_seconds.extend(thread_cpu_seconds().zip(cpu).map(|(now, before)| now - before));
        }
        each();
    }
    let timings = if device.has_timestamps() {
        trainer.start_profile();
        train_one(&mut trainer, &batch, options.steps as u64 + 2)?;
        trainer.take_profile()
    } else {
        Vec::new()
    };
    each();
    let counts = Counts { tokens: batch.rows(), supervised: batch.supervised_rows.len() };
    let matmul_flops = matmul_flops(trainer.graph(), &counts);
    let median_step_seconds = median(&step_seconds);
    let matmul_flops_per_second = product.map(|_| median(&rates));
    Ok(StepReport {
        tokens: batch.rows(),
        trained_parameters,
        median_step_seconds,
        tokens_per_second: batch.rows() as f64 / median_step_seconds,
        step_seconds,
        encode_seconds: median(&encode_seconds),
        submit_seconds: median(&submit_seconds),
        host_cpu_seconds: (!host_cpu_seconds.is_empty()).then(|| median(&host_cpu_seconds)),
        dispatches: trainer.dispatches(),
        gpu_bytes: trainer.memory(),
        matmul_flops,
        matmul_flops_per_second,
        step_efficiency: matmul_flops_per_second.map(|rate| matmul_flops / rate / median_step_seconds),
        timings,
    })
}

/// One optimizer step, to its end.
pub(super) fn train_one(trainer: &mut Trainer, batch: &Batch, step: u64) -> Result<()> {
    trainer.begin(batch, 1.0 / batch.targets.len() as f64)?;
    let loss = trainer.complete(true)?;
    let norm = trainer.update(&hyper(step))?;
    loss.wait()?;
    norm.wait()?;
    Ok(())
}

/// Floating-point operations of all matmuls of a step; the loss is two of them and little else.
fn matmul_flops(graph: &Graph, counts: &Counts) -> f64 {
    graph.flops_of(counts, |op| op.name().starts_with("matmul") || op.name() == "linear_cross_entropy") as f64
}

/// Of an even number the upper one; NaN of none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Processor time that the calling thread has used, in seconds.
#[cfg(unix)]
fn thread_cpu_seconds() -> Option<f64> {
    cpu_seconds(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// What a clock of processor time shows.
#[cfg(unix)]
pub(super) fn cpu_seconds(clock: libc::clockid_t) -> Option<f64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call fills in the structure that it is given.
    let done = unsafe { libc::clock_gettime(clock, &mut time) };
    (done == 0).then_some(time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9)
}

/// Not known here.
#[cfg(not(unix))]
fn thread_cpu_seconds() -> Option<f64> {
    None
}
