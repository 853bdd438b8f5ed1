//! Answers of a model while it is trained: what the numbers cannot tell.
//!
//! They are given with the most probable tokens, so that they differ by what was learned alone, and they change no number of the run.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::adapter::end_of_turn::EndOfTurn;
use crate::data::conversation::encode_prompt;
use crate::files;
use crate::generate::{Ends, Generator, Sampler, Sampling};
use crate::model::weights::DeviceWeights;
use crate::session::OpenModel;
use crate::text::Message;
use crate::train::metrics::StepMetrics;
use crate::train::prepare::Prepared;
use crate::train::tell::{SAMPLES_FILE, Watch};
use crate::train::trainer::Trainer;
use crate::{Error, Result};

/// Bytes of the longest file of answers that is read.
const MOST_BYTES: u64 = 64 << 20;
/// Tokens of an answer.
const TOKENS: usize = 64;

/// What the model said after a step: a line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub step: u64,
    pub prompt: String,
    pub answer: String,
}

impl Sample {
    /// What the folder of a run has. A step that was done again counts as it was done last.
    pub fn all(folder: &Path) -> Vec<Self> {
        let text = files::read_to_string(&folder.join(SAMPLES_FILE), MOST_BYTES).unwrap_or_default();
        let mut all: Vec<Self> = Vec::new();
        for sample in text.lines().filter_map(|line| serde_json::from_str::<Self>(line).ok()) {
            if all.last().is_some_and(|last| last.step > sample.step) {
                all.retain(|known| known.step < sample.step);
            }
            all.push(sample);
        }
        all
    }
}

/// Asks the model every so many steps.
pub struct Samples<'m> {
    model: &'m OpenModel,
    path: PathBuf,
    every: u64,
    last: u64,
    /// Messages, and what the model reads of them.
    prompts: Vec<(String, Vec<u32>)>,
    learned: Vec<EndOfTurn>,
    /// On the device of these weights; made when it is first needed.
    generator: Option<(Arc<DeviceWeights>, Generator)>,
}

impl<'m> Samples<'m> {
    /// What the options of a run ask for; `None` if nothing.
    ///
    /// # Errors
    /// Bad input: one of the two options without the other, or the model cannot be asked.
    pub fn of(prepared: &Prepared, model: &'m OpenModel) -> Result<Option<Self>> {
        let options = &prepared.options;
        let (every, texts) = match (options.sample_steps, &options.sample_prompts) {
            (Some(every), Some(texts)) => (every, texts),
            (None, None) => return Ok(None),
            (None, Some(_)) => {
                return Err(Error::bad_input("--sample-prompts", "nothing says how often", "give --sample-steps as well"));
            }
            (Some(_), None) => {
                let proposal = "give --sample-prompts TEXT as well, or --check-data for questions that say what is right";
                return Err(Error::bad_input("--sample-steps", "there is nothing to ask", proposal));
            }
        };
        let prompt = |text: &String| {
            let ids = match &model.template {
                Some(template) => encode_prompt(&model.tokenizer, template, &[Message::new("user", text)])?,
                None => model.tokenizer.encode(text, true)?,
            };
            Ok((text.clone(), ids))
        };
        let prompts = texts.iter().map(prompt).collect::<Result<Vec<_>>>()?;
        let (path, learned) = (options.out.join(SAMPLES_FILE), prepared.turn_ends());
        Ok(Some(Self { model, path, every, last: prepared.total_steps, prompts, learned, generator: None }))
    }

    fn sampled(&mut self, step: u64, trainer: &Trainer) -> Result<Vec<Sample>> {
        let OpenModel { tokenizer, template, files, .. } = self.model;
        let Ends { in_chat, in_text } = Ends::new(tokenizer, template.as_ref(), Some(&self.learned));
        let ends = if template.is_some() { in_chat } else { in_text };
        // A device that was lost has taken its generator with it.
        if self.generator.as_ref().is_none_or(|(weights, _)| !Arc::ptr_eq(weights, trainer.weights())) {
            let longest = self.prompts.iter().map(|(_, ids)| ids.len()).max().unwrap_or(0);
            let generator = Generator::new(trainer.weights(), &files.config, Some(trainer.adapter()), longest + TOKENS)?;
            self.generator = Some((trainer.weights().clone(), generator));
        }
        let Some((_, generator)) = &mut self.generator else { return Ok(Vec::new()) };
        let mut samples = Vec::new();
        for (prompt, ids) in &self.prompts {
            let mut tokens = generator.generate(ids, &mut Sampler::new(Sampling::default())?, TOKENS, &ends, |_| Ok(()))?;
            tokens.retain(|token| !ends.contains(token));
            samples.push(Sample { step, prompt: prompt.clone(), answer: tokenizer.decode(&tokens, true)? });
        }
        Ok(samples)
    }
}

impl Watch for Samples<'_> {
    fn step(&mut self, metrics: &StepMetrics, trainer: &Trainer) -> Result<()> {
        let step = metrics.step;
        if !step.is_multiple_of(self.every) && step != self.last {
            return Ok(());
        }
        let lines: Vec<String> =
            self.sampled(step, trainer)?.iter().filter_map(|sample| serde_json::to_string(sample).ok()).collect();
        let write = || {
            let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            file.write_all(format!("{}\n", lines.join("\n")).as_bytes())
        };
        // An answer is not worth a run.
        if let Err(error) = write() {
            tracing::warn!("{}: {error}", self.path.display());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_was_done_again_counts_as_it_was_done_last() {
        let folder = tempfile::tempdir().unwrap();
        let sample = |step, answer: &str| Sample { step, prompt: "p".into(), answer: answer.into() };
        let written = [sample(2, "a"), sample(4, "b"), sample(4, "c"), sample(6, "d"), sample(4, "e"), sample(4, "f")];
        let lines: Vec<String> = written.iter().map(|sample| serde_json::to_string(sample).unwrap()).collect();
        std::fs::write(folder.path().join(SAMPLES_FILE), format!("{}\nnot one\n{{\"st", lines.join("\n"))).unwrap();
        assert_eq!(Sample::all(folder.path()), [sample(2, "a"), sample(4, "e"), sample(4, "f")]);
        assert_eq!(lines[0], r#"{"step":2,"prompt":"p","answer":"a"}"#);
    }
}
