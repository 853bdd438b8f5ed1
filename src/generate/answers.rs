//! Answers to questions that say what is expected of them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ends::Ends;
use super::{Generation, Generator, Sampler, Sampling};
use crate::data::expect::{self, Question, questions};
use crate::session::OpenModel;
use crate::text::Tokenizer;
use crate::{Error, Result};

/// Questions for one model, each with what its answer is to be.
pub struct CheckSet {
    pub questions: Vec<Question>,
    max_new_tokens: usize,
    /// The longest question and its answer, in tokens.
    context: usize,
}

/// What the model said to a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub text: String,
    /// Of each kind of check that the question has, whether it is met.
    pub met: Vec<(&'static str, bool)>,
    /// The group that the question belongs to.
    pub group: Option<String>,
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

impl Share {
    fn count(&mut self, right: bool) {
        self.of += 1;
        self.right += usize::from(right);
    }

    /// From 0 to 1; `None` of no answer.
    pub fn value(&self) -> Option<f64> {
        (self.of > 0).then(|| self.right as f64 / self.of as f64)
    }
}

/// How many answers are right.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Answers that meet all that is expected of them.
    pub all: Share,
    /// Of each [kind of check](expect::KINDS) the answers that meet it.
    pub checks: BTreeMap<String, Share>,
    /// Of each group of questions the answers that meet all that is expected of them; empty where no question has a group.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, Share>,
}

impl Tally {
    /// Counts them.
    pub fn of(answers: &[Answer]) -> Self {
        let mut tally = Self::default();
        for answer in answers {
            tally.all.count(answer.is_right());
            for (kind, met) in &answer.met {
                tally.checks.entry((*kind).to_string()).or_default().count(*met);
            }
            if let Some(group) = &answer.group {
                tally.groups.entry(group.clone()).or_default().count(answer.is_right());
            }
        }
        tally
    }

    /// By group where there are groups, else by kind of check, for people: `paraphrase 3 of 8, trained 7 of 8`.
    pub fn parts(&self) -> String {
        let shares = if self.groups.is_empty() { &self.checks } else { &self.groups };
        shares.iter().map(|(name, Share { right, of })| format!("{name} {right} of {of}")).collect::<Vec<_>>().join(", ")
    }
}

impl CheckSet {
    /// Every record of these files that has `expect`. An answer has at most `max_new_tokens` tokens. `None`: no record expects anything.
    ///
    /// # Errors
    /// As [`questions`]; a question is longer than the model reads.
    pub fn read(files: &[PathBuf], model: &OpenModel, max_new_tokens: usize) -> Result<Option<Self>> {
        let questions = questions(files, &model.tokenizer, model.template.as_ref())?;
        let most = model.files.config.context();
        let Some(longest) = questions.iter().map(|question| question.prompt.len()).max() else { return Ok(None) };
        if let Some(question) = questions.iter().find(|question| question.prompt.len() >= most) {
            let problem = format!("the question has {} tokens, and the model reads {most}", question.prompt.len());
            return Err(Error::bad_input(&question.place, problem, "give a shorter one"));
        }
        let context = longest.saturating_add(max_new_tokens).min(most);
        Ok(Some(Self { questions, max_new_tokens, context }))
    }

    /// [`CheckSet::read`] of files that are given for nothing else.
    ///
    /// # Errors
    /// As [`CheckSet::read`]; no record expects anything.
    pub fn required(files: &[PathBuf], model: &OpenModel, max_new_tokens: usize) -> Result<Self> {
        Self::read(files, model, max_new_tokens)?.ok_or_else(|| {
            let names: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
            let proposal = "give records such as {\"messages\": [...], \"expect\": {\"contains\": \"Paris\"}}";
            Error::bad_input(names.join(", "), "no record says what its answer is expected to be (`expect`)", proposal)
        })
    }

    /// What a session or a generator has to be opened for.
    pub fn generation(&self) -> Generation {
        Generation { context: self.context }
    }

    /// All that the answers depend on beside the model, by content.
    pub fn fingerprint(&self) -> String {
        format!("{}, {} tokens", expect::fingerprint(&self.questions), self.max_new_tokens)
    }

    /// Answers each question with the most probable tokens. `each` is told how many are done, after every token, and may stop it: then
    /// `None` is given.
    ///
    /// # Errors
    /// As [`Generator::generate`].
    pub fn ask(
        &self,
        generator: &mut Generator,
        tokenizer: &Tokenizer,
        ends: &Ends,
        mut each: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Vec<Answer>>> {
        let mut answers = Vec::with_capacity(self.questions.len());
        // What the adapter was when the last text was read, nobody knows.
        generator.reset();
        for question in &self.questions {
            if each(answers.len()).is_break() {
                return Ok(None);
            }
            let ends = if question.chat { &ends.in_chat } else { &ends.in_text };
            let mut sampler = Sampler::new(Sampling::default())?;
            // What questions begin with in common, such as a system prompt, is read once.
            let mut stopped = false;
            let go_on = |_| {
                let wish = each(answers.len());
                stopped |= wish.is_break();
                Ok(wish)
            };
            let mut tokens = generator.go_on(&question.prompt, &mut sampler, self.max_new_tokens, ends, go_on)?;
            if stopped {
                return Ok(None);
            }
            if tokens.last().is_some_and(|last| ends.contains(last)) {
                tokens.pop();
            }
            let text = tokenizer.decode(&tokens, true)?;
            let met = question.expect.met(&text);
            answers.push(Answer { text, met, group: question.expect.group.clone() });
        }
        // Those who show how many are done want to see the last.
        let _ = each(answers.len());
        Ok(Some(answers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_right_in_all_and_in_its_group_if_every_check_is_met() {
        let answer = |met: &[(&'static str, bool)], group: Option<&str>| Answer {
            text: String::new(),
            met: met.to_vec(),
            group: group.map(str::to_string),
        };
        let tally = Tally::of(&[
            answer(&[("contains", true), ("json_schema", false)], Some("both")),
            answer(&[("contains", true), ("json_schema", true)], Some("both")),
            answer(&[("contains", true)], Some("easy")),
            answer(&[("contains", false)], None),
        ]);
        let share = |right, of| Share { right, of };
        assert_eq!(tally.all, share(2, 4));
        assert_eq!(tally.checks, BTreeMap::from([("contains".into(), share(3, 4)), ("json_schema".into(), share(1, 2))]));
        assert_eq!(tally.groups, BTreeMap::from([("both".into(), share(1, 2)), ("easy".into(), share(1, 1))]));
        assert_eq!(tally.parts(), "both 1 of 2, easy 1 of 1");
        assert_eq!((share(1, 4).value(), share(0, 0).value()), (Some(0.25), None));
    }
}
