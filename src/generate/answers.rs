//! Answers to questions that say what is expected of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Generator, Sampler, Sampling};
use crate::Result;
use crate::data::expect::{KINDS, Question};
use crate::text::Tokenizer;

/// What the model said to a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub text: String,
    /// Of each kind of check that the question has, whether it is met.
    pub met: Vec<(&'static str, bool)>,
}

impl Answer {
    /// Whether all checks are met.
    pub fn is_right(&self) -> bool {
        self.met.iter().all(|(_, met)| *met)
    }
}

/// Right answers, and answers in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    pub right: usize,
    pub of: usize,
}

/// Answers each question with the most probable tokens, at most so many; `ends` are tokens that end an answer: in a conversation, and in a
/// text. `each` is told how many are done.
///
/// # Errors
/// As [`Generator::generate`].
pub fn answer_all(
    generator: &mut Generator,
    tokenizer: &Tokenizer,
    questions: &[Question],
    max_new_tokens: usize,
    [in_chat, in_text]: [&[u32]; 2],
    mut each: impl FnMut(usize),
) -> Result<Vec<Answer>> {
    let mut answers = Vec::with_capacity(questions.len());
    for question in questions {
        let ends = if question.chat { in_chat } else { in_text };
        let mut sampler = Sampler::new(Sampling::default())?;
        let mut tokens = generator.generate(&question.prompt, &mut sampler, max_new_tokens, ends, |_| Ok(()))?;
        if tokens.last().is_some_and(|last| ends.contains(last)) {
            tokens.pop();
        }
        let text = tokenizer.decode(&tokens, true)?;
        let met = question.expect.met(&text);
        answers.push(Answer { text, met });
        each(answers.len());
    }
    Ok(answers)
}

/// Of each kind of check the share that is met, in the order of [`KINDS`].
pub fn shares(answers: &[Answer]) -> Vec<(&'static str, Share)> {
    let mut shares: BTreeMap<usize, Share> = BTreeMap::new();
    for (kind, met) in answers.iter().flat_map(|answer| &answer.met) {
        let at = KINDS.iter().position(|known| known == kind).unwrap_or(KINDS.len() - 1);
        let share = shares.entry(at).or_default();
        share.of += 1;
        share.right += usize::from(*met);
    }
    shares.into_iter().map(|(at, share)| (KINDS[at], share)).collect()
}
