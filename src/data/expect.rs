//! What an answer is expected to be, `expect` of a record, and whether one is that.
//!
//! | key | met if the answer |
//! |---|---|
//! | `exact` | is this text, but for white space around it |
//! | `contains` | has this text, or all of these texts, in it |
//! | `regex` | has a match of this pattern in it, as Python's `re.search` finds it |
//!
//! `json_schema`, which other tools have, is refused by name: there is no library for it here yet.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::conversation::encode_prompt;
use super::record::{self, Record};
use super::source::{Place, Raw, SourceFile};
use crate::text::{ChatTemplate, Message, Tokenizer, marks};
use crate::{Error, Result};

/// A question, and what its answer is to be.
pub struct Question {
    /// What the model reads.
    pub prompt: Vec<u32>,
    /// Whether it stands in the model's chat template.
    pub chat: bool,
    pub expect: Expect,
    /// Where the record stands, for messages.
    pub place: String,
}

/// What an answer is to be; several kinds are all to be met.
pub struct Expect(Vec<Check>);

enum Check {
    Exact(String),
    Contains(Vec<String>),
    Regex(onig::Regex),
}

/// How often a pattern may go back before it is given up.
const RETRIES: u32 = 10_000_000;

/// The kinds, in the order in which they are told.
pub const KINDS: [&str; 3] = ["exact", "contains", "regex"];

impl Check {
    fn kind(&self) -> &'static str {
        match self {
            Self::Exact(_) => KINDS[0],
            Self::Contains(_) => KINDS[1],
            Self::Regex(_) => KINDS[2],
        }
    }

    fn is_met(&self, answer: &str) -> bool {
        match self {
            Self::Exact(text) => answer.trim() == text.trim(),
            Self::Contains(texts) => texts.iter().all(|text| answer.contains(text)),
            // A pattern that takes for ever is given up, and not met.
            Self::Regex(pattern) => {
                let mut bounded = onig::MatchParam::default();
                bounded.set_retry_limit_in_match(RETRIES);
                let none = onig::SearchOptions::SEARCH_OPTION_NONE;
                let found = pattern.search_with_param(answer, 0, answer.len(), none, None, bounded);
                found.is_ok_and(|found| found.is_some())
            }
        }
    }
}

impl Expect {
    /// Reads the value of `expect`.
    ///
    /// # Errors
    /// Bad input, at `place`: no kind that is known, a value of another type, a pattern or schema that is none.
    pub fn read(place: Place<'_>, value: &Value) -> Result<Self> {
        let known = "write one or more of \"exact\": TEXT, \"contains\": TEXT or [TEXT, ...], \"regex\": PATTERN";
        let Some(map) = value.as_object().filter(|map| !map.is_empty()) else {
            return Err(place.error("`expect` is no object that says what an answer is to be", known));
        };
        let text = |key: &str, value: &Value| {
            let wrong = || place.error(format!("`expect.{key}` is {value}, not a text"), known);
            value.as_str().map(str::to_owned).ok_or_else(wrong)
        };
        let check = |(key, value): (&String, &Value)| match key.as_str() {
            "exact" => Ok(Check::Exact(text(key, value)?)),
            "contains" => match value {
                Value::Array(texts) if !texts.is_empty() => {
                    Ok(Check::Contains(texts.iter().map(|value| text(key, value)).collect::<Result<_>>()?))
                }
                value => Ok(Check::Contains(vec![text(key, value)?])),
            },
            "regex" => {
                let pattern = text(key, value)?;
                let none = onig::RegexOptions::REGEX_OPTION_NONE;
                let compiled = onig::Regex::with_options(&pattern, none, onig::Syntax::python()).map_err(|cause| {
                    let problem = format!("`expect.regex` is no pattern: {}", cause.description());
                    place.error(problem, "write it as Python's `re` has it")
                })?;
                Ok(Check::Regex(compiled))
            }
            "json_schema" => {
                let problem = "`expect.json_schema` is not checked by this version of graftling";
                Err(place.error(problem, "write the form as `regex`, or take the key out"))
            }
            other => Err(place.error(format!("`expect` has `{other}`, which is no kind of check"), known)),
        };
        map.iter().map(check).collect::<Result<_>>().map(Self)
    }

    /// Of each kind that is asked for, whether the answer meets it.
    pub fn met(&self, answer: &str) -> Vec<(&'static str, bool)> {
        self.0.iter().map(|check| (check.kind(), check.is_met(answer))).collect()
    }
}

/// The questions of files: every record that has `expect`. Of a conversation, the model is to answer the last message of the user.
///
/// # Errors
/// As for data to train on; no record has `expect`; a record ends with no question; a conversation, but the model has no chat template.
pub fn questions(paths: &[PathBuf], tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Result<Vec<Question>> {
    let mut questions = Vec::new();
    let mut checked = false;
    for path in paths {
        let file = SourceFile::open(path)?;
        for number in 0..file.len() {
            let (place, raw) = file.record(number);
            let Some(expect) = expectation(&raw) else { continue };
            let expect = Expect::read(place, &expect)?;
            let Some((messages, text)) = asked(place, record::parse(place, raw, tokenizer.vocab_size())?.record)? else {
                return Err(
                    place.error("`expect` in a record without a question", "write `messages`, or `prompt` and `completion`")
                );
            };
            let chat = text.is_none();
            let prompt = match (text, template) {
                (Some(text), _) => tokenizer.encode(&text, true)?,
                (None, Some(template)) => {
                    if !checked && let Some(mark) = marks::split_in_template(tokenizer, template) {
                        return Err(marks::refusal(tokenizer, &mark));
                    }
                    checked = true;
                    encode_prompt(tokenizer, template, &messages)?
                }
                (None, None) => {
                    let proposal = "use an instruction-tuned model, or records with `prompt` and `completion`";
                    return Err(place.error("the model has no chat template for this conversation", proposal));
                }
            };
            questions.push(Question { prompt, chat, expect, place: place.to_string() });
        }
    }
    if questions.is_empty() {
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        let proposal = "give records such as {\"messages\": [...], \"expect\": {\"contains\": \"Paris\"}}";
        return Err(Error::bad_input(names.join(", "), "no record says what its answer is expected to be (`expect`)", proposal));
    }
    Ok(questions)
}

/// The value of `expect`, if the record has one.
fn expectation(raw: &Raw<'_>) -> Option<Value> {
    let found = match raw {
        Raw::Json(bytes) => serde_json::from_slice::<Map<String, Value>>(bytes).ok()?.shift_remove("expect"),
        // A table holds an object as JSON text.
        Raw::Row(row) => match row.get("expect") {
            Some(Value::String(text)) => serde_json::from_str(text).ok(),
            other => other.cloned(),
        },
    };
    found.filter(|value| !value.is_null())
}

/// The messages up to the last one of the user, or the text to continue.
fn asked(place: Place<'_>, record: Record) -> Result<Option<(Vec<Message>, Option<String>)>> {
    Ok(match record {
        Record::Messages { mut messages, .. } => {
            let Some(last) = messages.iter().rposition(|message| message.role == "user") else {
                return Err(place.error("the conversation has no message of the user", "end it with the question"));
            };
            messages.truncate(last + 1);
            Some((messages, None))
        }
        Record::Instruction { system, instruction, input, .. } => {
            let question = if input.is_empty() { instruction } else { format!("{instruction}\n{input}") };
            let system = system.map(|system| Message::new("system", system));
            Some((system.into_iter().chain([Message::new("user", question)]).collect(), None))
        }
        Record::Completion { prompt, .. } => Some((Vec::new(), Some(prompt))),
        Record::Text(_) | Record::Tokens { .. } => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn met(expect: Value, answer: &str) -> Vec<(&'static str, bool)> {
        Expect::read(Place::line("data", 1), &expect).unwrap().met(answer)
    }

    #[test]
    fn every_kind_of_check() {
        for (expect, answer, is_met) in [
            (json!({"exact": "Paris"}), " Paris\n", true),
            (json!({"exact": "Paris"}), "Paris.", false),
            (json!({"contains": "Paris"}), "It is Paris.", true),
            (json!({"contains": ["Paris", "France"]}), "It is Paris.", false),
            (json!({"regex": r"\b\d{4}\b"}), "in 1889, they say", true),
            // Look-around, as Python has it.
            (json!({"regex": r"^(?!.*sorry)"}), "I am sorry", false),
            (json!({"regex": r"(?P<name>[a-z]+)-\d+"}), "part b-12", true),
        ] {
            assert_eq!(
                met(expect.clone(), answer).iter().map(|(_, met)| *met).collect::<Vec<_>>(),
                [is_met],
                "{expect} {answer}"
            );
        }
        assert_eq!(met(json!({"exact": "a", "contains": "a"}), "a b"), [("exact", false), ("contains", true)]);
    }

    #[test]
    fn what_is_no_check_is_refused() {
        for (expect, needle) in [
            (json!("Paris"), "no object"),
            (json!({}), "no object"),
            (json!({"contain": "Paris"}), "contain"),
            (json!({"exact": 4}), "not a text"),
            (json!({"regex": "("}), "no pattern"),
            (json!({"json_schema": {"type": "object"}}), "json_schema"),
        ] {
            let error = Expect::read(Place::line("data", 7), &expect).err().unwrap().to_string();
            assert!(error.contains("data:7") && error.contains(needle), "{error}");
        }
    }
}
