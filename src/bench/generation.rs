//! Speed of greedy decoding, one token after the other.

use crate::Result;
use crate::architecture::Architecture;
use crate::generate::Generator;
use crate::generate::sampling::greedy;
use crate::model::weights::DeviceWeights;
use crate::ops::Random;
use std::time::{Duration, Instant};

/// What decoding took.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct GenerationReport {
    pub prompt_tokens: usize,
    /// Prompt tokens a second, read in one go.
    pub prompt_tokens_per_second: f64,
    /// Tokens that were generated and timed.
    pub tokens: usize,
    pub tokens_per_second: f64,
}

/// Tokens of the prompt, and of the answer at the most.
const PROMPT: usize = 128;
const ANSWER: usize = 128;

/// Reads a random prompt and generates greedily for about `budget`.
///
/// # Errors
/// If the device has not the memory, or is lost.
pub fn measure(weights: &DeviceWeights, config: &Architecture, budget: Duration) -> Result<GenerationReport> {
    let context = (PROMPT + ANSWER + 1).min(config.context());
    let prompt_tokens = PROMPT.min(context / 2).max(1);
    let mut generator = Generator::new(weights, config, None, context)?;
    let mut random = Random(1);
    let prompt: Vec<u32> = (0..prompt_tokens).map(|_| random.below(config.vocab_size) as u32).collect();
    // Everything once before it is timed.
    let logits = generator.read(&prompt)?;
    generator.read(&[greedy(&logits).unwrap_or(0)])?;

    generator.reset();
    let started = Instant::now();
    let mut logits = generator.read(&prompt)?;
    let prompt_seconds = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let mut tokens = 0;
    while tokens < context - prompt_tokens && (tokens == 0 || started.elapsed() < budget) {
        logits = generator.read(&[greedy(&logits).unwrap_or(0)])?;
        tokens += 1;
    }
    Ok(GenerationReport {
        prompt_tokens,
        prompt_tokens_per_second: prompt_tokens as f64 / prompt_seconds,
        tokens,
        tokens_per_second: tokens as f64 / started.elapsed().as_secs_f64(),
    })
}
