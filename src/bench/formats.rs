//! The same training step with the weights in one format after the other, in turn: what a format costs beside the first.
//!
//! A machine's speed changes from minute to minute. So each round takes one step of every format, and a ratio is the median of the ratios
//! within the rounds.

use super::step::{Options, median, random_batch, train_one};
use crate::Result;
use crate::adapter::DeviceAdapter;
use crate::architecture::Architecture;
use crate::data::Batch;
use crate::graph::DType;
use crate::model::weights::DeviceWeights;
use crate::train::memory::StepShape;
use crate::train::trainer::Trainer;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

/// What steps with the weights in one format took.
#[derive(Clone, Debug, serde::Serialize)]
pub struct FormatSteps {
    /// As `--weights` was given; where rows are no whole blocks, a weight rests in another one.
    pub format: DType,
    /// Bytes of all weights on the device.
    pub weight_bytes: usize,
    pub step_seconds: Vec<f64>,
    pub median_step_seconds: f64,
    /// The time of a step, divided by that of the first format's in the same round; median.
    pub of_first: f64,
    /// Processor time of the whole process in a step, where the system tells it: on a driver that runs on the CPU, the work. Median.
    pub processor_seconds: Option<f64>,
    /// The same, divided by that of the first format's in the same round; median.
    pub processor_of_first: Option<f64>,
}

struct Candidate {
    format: DType,
    weight_bytes: usize,
    trainer: Trainer,
    wall: Vec<f64>,
    processor: Vec<f64>,
}

/// Trains `options.steps` steps of each, after one that is not counted; `each` is told every step as it comes.
///
/// # Errors
/// If the device has not the memory for all of them at a time, or is lost.
pub fn compare(
    weights: Vec<(DType, Arc<DeviceWeights>)>,
    config: &Architecture,
    options: &Options,
    mut each: impl FnMut(),
) -> Result<Vec<FormatSteps>> {
    let batch = random_batch(options.batch_size, options.max_length, config.vocab_size);
    let shape = StepShape { max_tokens: batch.rows(), accumulate: false, recompute: options.recompute, held_out_tokens: 0 };
    let mut candidates = Vec::new();
    for (format, weights) in weights {
        let adapter = DeviceAdapter::fresh(weights.device().clone(), options.lora.on(config), 0)?;
        let weight_bytes = weights.bytes();
        let trainer = Trainer::new(weights, config, adapter, shape, 0, None)?;
        candidates.push(Candidate { format, weight_bytes, trainer, wall: Vec::new(), processor: Vec::new() });
    }
    for step in 0..=options.steps {
        for candidate in &mut candidates {
            candidate.train(&batch, step)?;
            each();
        }
    }
    let Some(first) = candidates.first().map(|first| (first.wall.clone(), first.processor.clone())) else {
        return Ok(Vec::new());
    };
    let of = |own: &[f64], first: &[f64]| median(&own.iter().zip(first).map(|(own, first)| own / first).collect::<Vec<_>>());
    let report = |Candidate { format, weight_bytes, wall, processor, .. }: Candidate| FormatSteps {
        format,
        weight_bytes,
        median_step_seconds: median(&wall),
        of_first: of(&wall, &first.0),
        processor_seconds: (!processor.is_empty()).then(|| median(&processor)),
        processor_of_first: (!processor.is_empty()).then(|| of(&processor, &first.1)),
        step_seconds: wall,
    };
    Ok(candidates.into_iter().map(report).collect())
}

impl Candidate {
    /// One step; the first, in which kernels are compiled, is not counted.
    fn train(&mut self, batch: &Batch, step: usize) -> Result<()> {
        let (started, processor) = (Instant::now(), processor_seconds());
        train_one(&mut self.trainer, batch, step as u64 + 1)?;
        if step > 0 {
            self.wall.push(started.elapsed().as_secs_f64());
            self.processor.extend(processor_seconds().zip(processor).map(|(now, before)| now - before));
        }
        Ok(())
    }
}

/// The table.
pub fn text(formats: &[FormatSteps]) -> String {
    let Some(first) = formats.first() else { return String::new() };
    let mut text = format!(
        "{:<9} {:>12} {:>10} {:>14} {:>14} {:>14}\n",
        "weights",
        "on the GPU",
        "s a step",
        format!("of {}", first.format),
        "processor s",
        format!("of {}", first.format)
    );
    let or_none = |number: Option<f64>| number.map_or("-".to_owned(), |number| format!("{number:.3}"));
    for one in formats {
        let _ = writeln!(
            text,
            "{:<9} {:>8.1} MiB {:>10.3} {:>14.3} {:>14} {:>14}",
            one.format.to_string(),
            one.weight_bytes as f64 / f64::from(1 << 20),
            one.median_step_seconds,
            one.of_first,
            or_none(one.processor_seconds),
            or_none(one.processor_of_first)
        );
    }
    text
}

/// Processor time that this process has used, in seconds.
#[cfg(unix)]
fn processor_seconds() -> Option<f64> {
    super::step::cpu_seconds(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Not known here.
#[cfg(not(unix))]
fn processor_seconds() -> Option<f64> {
    None
}
