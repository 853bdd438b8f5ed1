//! Answers of a model while it is trained: what the numbers cannot tell.
//!
//! They are given with the most probable tokens, so that they differ by what was learned alone, and they change no number of the run.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::data::conversation::encode_prompt;
use crate::data::expect::{self, Question};
use crate::files;
use crate::generate::answers::{Share, answer_all, shares};
use crate::generate::{Generator, Sampler, Sampling, end_tokens};
use crate::model::weights::DeviceWeights;
use crate::session::OpenModel;
use crate::text::Message;
use crate::train::metrics::StepMetrics;
use crate::train::options::TrainOptions;
use crate::train::tell::{SAMPLES_FILE, Watch};
use crate::train::trainer::Trainer;
use crate::{Error, Result};

/// Bytes of the longest such file that is read.
const MOST_BYTES: u64 = 64 << 20;
/// Tokens of an answer.
const TOKENS: usize = 64;
/// Questions of the held-out data that are asked.
const QUESTIONS: usize = 8;

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Sample {
    /// What the model said after this step.
    Answer {
        step: u64,
        prompt: String,
        answer: String,
        /// Whether it is what the record expects.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        right: Option<bool>,
    },
    /// How many answers after this step were as expected, by kind of expectation.
    Check { step: u64, checks: std::collections::BTreeMap<String, Share> },
}

impl Sample {
    /// The step after which it was taken.
    pub fn step(&self) -> u64 {
        match self {
            Self::Answer { step, .. } | Self::Check { step, .. } => *step,
        }
    }

    /// What the folder of a run has. A step that was done again counts as it was done last.
    pub fn all(folder: &Path) -> Vec<Self> {
        let text = files::read_to_string(&folder.join(SAMPLES_FILE), MOST_BYTES).unwrap_or_default();
        let mut all: Vec<Self> = Vec::new();
        for sample in text.lines().filter_map(|line| serde_json::from_str::<Self>(line).ok()) {
            if all.last().is_some_and(|last| last.step() > sample.step()) {
                all.retain(|known| known.step() < sample.step());
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
    /// Plain messages, and what the model reads of them.
    prompts: Vec<(String, Vec<u32>)>,
    /// Records that say what they expect.
    questions: Vec<Question>,
    /// On the device of these weights; made when it is first needed.
    generator: Option<(Arc<DeviceWeights>, Generator)>,
}

impl<'m> Samples<'m> {
    /// What the options ask for; `None` if nothing.
    ///
    /// # Errors
    /// Bad input: there is nothing to ask, or the model cannot be asked.
    pub fn of(options: &TrainOptions, model: &'m OpenModel, total_steps: u64) -> Result<Option<Self>> {
        let Some(every) = options.sample_steps else {
            return match options.sample_prompts {
                Some(_) => Err(Error::bad_input("--sample-prompts", "nothing says how often", "give --sample-steps as well")),
                None => Ok(None),
            };
        };
        let prompt = |text: &String| {
            let ids = match &model.template {
                Some(template) => encode_prompt(&model.tokenizer, template, &[Message::new("user", text)])?,
                None => model.tokenizer.encode(text, true)?,
            };
            Ok((text.clone(), ids))
        };
        let prompts = options.sample_prompts.iter().flatten().map(prompt).collect::<Result<Vec<_>>>()?;
        let mut questions = match (&options.eval_data, prompts.is_empty()) {
            (Some(files), _) => match expect::questions(files, &model.tokenizer, model.template.as_ref()) {
                Err(error) if prompts.is_empty() => return Err(error),
                questions => questions.unwrap_or_default(),
            },
            (None, false) => Vec::new(),
            (None, true) => {
                let proposal = "give --sample-prompts TEXT, or --eval-data with records that have `expect`";
                return Err(Error::bad_input("--sample-steps", "there is nothing to ask", proposal));
            }
        };
        questions.truncate(QUESTIONS);
        let path = options.out.join(SAMPLES_FILE);
        Ok(Some(Self { model, path, every, last: total_steps, prompts, questions, generator: None }))
    }

    fn sampled(&mut self, step: u64, trainer: &Trainer) -> Result<Vec<Sample>> {
        let OpenModel { tokenizer, template, files, .. } = self.model;
        let ends = |chat| end_tokens(tokenizer, template.as_ref(), None, chat);
        let (in_chat, in_text) = (ends(true)?, ends(false)?);
        let longest = self.prompts.iter().map(|(_, ids)| ids.len()).chain(self.questions.iter().map(|asked| asked.prompt.len()));
        let context = longest.max().unwrap_or(0) + TOKENS;
        // A device that was lost has taken its generator with it.
        if self.generator.as_ref().is_none_or(|(weights, _)| !Arc::ptr_eq(weights, trainer.weights())) {
            let generator = Generator::new(trainer.weights(), &files.config, Some(trainer.adapter()), context)?;
            self.generator = Some((trainer.weights().clone(), generator));
        }
        let Some((_, generator)) = &mut self.generator else { return Ok(Vec::new()) };
        let mut samples = Vec::new();
        for (prompt, ids) in &self.prompts {
            let ends = if template.is_some() { &in_chat } else { &in_text };
            let mut tokens = generator.generate(ids, &mut Sampler::new(Sampling::default())?, TOKENS, ends, |_| Ok(()))?;
            tokens.retain(|token| !ends.contains(token));
            let answer = tokenizer.decode(&tokens, true)?;
            samples.push(Sample::Answer { step, prompt: prompt.clone(), answer, right: None });
        }
        let answers = answer_all(generator, tokenizer, &self.questions, TOKENS, [&in_chat, &in_text], |_| ())?;
        for (question, answer) in self.questions.iter().zip(&answers) {
            let prompt = tokenizer.decode(&question.prompt, true)?;
            samples.push(Sample::Answer { step, prompt, answer: answer.text.clone(), right: Some(answer.is_right()) });
        }
        if !answers.is_empty() {
            let checks = shares(&answers).into_iter().map(|(kind, share)| (kind.to_string(), share)).collect();
            samples.push(Sample::Check { step, checks });
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
        let answer = |step, answer: &str| Sample::Answer { step, prompt: "p".into(), answer: answer.into(), right: None };
        let check = Sample::Check { step: 4, checks: [("exact".to_string(), Share { right: 1, of: 2 })].into() };
        let written = [answer(2, "a"), answer(4, "b"), check.clone(), answer(6, "c"), answer(4, "d"), check.clone()];
        let lines: Vec<String> = written.iter().map(|sample| serde_json::to_string(sample).unwrap()).collect();
        std::fs::write(folder.path().join(SAMPLES_FILE), format!("{}\nnot one\n{{\"st", lines.join("\n"))).unwrap();
        assert_eq!(Sample::all(folder.path()), [answer(2, "a"), answer(4, "d"), check]);
        assert_eq!(lines[0], r#"{"step":2,"prompt":"p","answer":"a"}"#);
    }
}
