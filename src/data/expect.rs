//! What an answer is expected to be, `expect` of a record, and whether one is that.
//!
//! | key | met if the answer |
//! |---|---|
//! | `exact` | is this text, but for white space around it |
//! | `contains` | has this text, or all of these texts, in it |
//! | `regex` | has a match of this pattern in it, as Python's `re.search` finds it |
//! | `json_schema` | is JSON, but for white space around it, that this schema allows |
//!
//! Beside these, `group` is a name by which the right answers are counted apart, such as `paraphrase`.

use std::path::PathBuf;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::conversation::encode_prompt;
use super::json_schema::Schema;
use super::record::{self, Record};
use super::source::{Place, Raw, SourceFile};
use crate::Result;
use crate::text::{ChatTemplate, Message, Tokenizer, marks};

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
pub struct Expect {
    checks: Vec<Check>,
    /// The questions that it is counted with, where the record says so.
    pub group: Option<String>,
    /// As the record has it.
    written: String,
}

enum Check {
    Exact(String),
    Contains(Vec<String>),
    Regex(onig::Regex),
    JsonSchema(Schema),
}

/// How often a pattern may go back before it is given up.
const RETRIES: u32 = 10_000_000;

/// The kinds, in the order in which they are told.
pub const KINDS: [&str; 4] = ["exact", "contains", "regex", "json_schema"];

/// What may be written, for messages.
const KNOWN: &str = "write one or more of \"exact\": TEXT, \"contains\": TEXT or [TEXT, ...], \"regex\": PATTERN, \"json_schema\": SCHEMA, \
                     and perhaps \"group\": NAME";

impl Check {
    fn kind(&self) -> &'static str {
        match self {
            Self::Exact(_) => KINDS[0],
            Self::Contains(_) => KINDS[1],
            Self::Regex(_) => KINDS[2],
            Self::JsonSchema(_) => KINDS[3],
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
            Self::JsonSchema(schema) => schema.allows(answer),
        }
    }
}

impl Expect {
    /// Reads the value of `expect`.
    ///
    /// # Errors
    /// Bad input, at `place`: no kind that is known, a value of another type, a pattern or schema that is none.
    pub fn read(place: Place<'_>, value: &Value) -> Result<Self> {
        let none = || place.error("`expect` is no object that says what an answer is to be", KNOWN);
        let map = value.as_object().ok_or_else(none)?;
        let text = |key: &str, value: &Value| {
            let wrong = || place.error(format!("`expect.{key}` is {value}, not a text"), KNOWN);
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
            "json_schema" => Schema::read(place, value).map(Check::JsonSchema),
            other => Err(place.error(format!("`expect` has `{other}`, which is no kind of check"), KNOWN)),
        };
        let group = map.get("group").map(|group| text("group", group)).transpose()?;
        let checks: Vec<Check> = map.iter().filter(|(key, _)| *key != "group").map(check).collect::<Result<_>>()?;
        if checks.is_empty() {
            return Err(none());
        }
        Ok(Self { checks, group, written: value.to_string() })
    }

    /// Of each kind that is asked for, whether the answer meets it.
    pub fn met(&self, answer: &str) -> Vec<(&'static str, bool)> {
        self.checks.iter().map(|check| (check.kind(), check.is_met(answer))).collect()
    }
}

/// What these questions and expectations are, by content.
pub fn fingerprint(questions: &[Question]) -> String {
    let mut hash = Sha256::new();
    for question in questions {
        hash.update((question.prompt.len() as u64).to_le_bytes());
        question.prompt.iter().for_each(|id| hash.update(id.to_le_bytes()));
        hash.update((question.expect.written.len() as u64).to_le_bytes());
        hash.update(question.expect.written.as_bytes());
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The questions of files: every record that has `expect`. Of a conversation, the model is to answer the last message of the user.
///
/// # Errors
/// As for data to train on; a record ends with no question; a conversation, but the model has no chat template.
pub fn questions(paths: &[PathBuf], tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Result<Vec<Question>> {
    let mut questions = Vec::new();
    let mut checked = false;
    for path in paths {
        let file = SourceFile::open(path)?;
        for number in 0..file.len() {
            let (place, raw) = file.record(number);
            let Some((question, expect)) = expectation(place, raw, tokenizer.vocab_size())? else { continue };
            let expect = Expect::read(place, &expect)?;
            let Some((messages, text)) = asked(place, question)? else {
                return Err(place.error("`expect` in a record without a question", "write `messages`, or `prompt`"));
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
    Ok(questions)
}

/// The record, and the value of its `expect`; `None` if it has none. A `prompt` needs no completion here.
fn expectation(place: Place<'_>, raw: Raw<'_>, vocab_size: usize) -> Result<Option<(Record, Value)>> {
    let mut row = match raw {
        Raw::Json(bytes) => match serde_json::from_slice::<Map<String, Value>>(bytes) {
            Ok(row) => row,
            // What is wrong with it is said as of any other record.
            Err(_) => return record::parse(place, raw, vocab_size).map(|_| None),
        },
        Raw::Row(row) => row.clone(),
    };
    let expect = match row.shift_remove("expect") {
        None | Some(Value::Null) => return Ok(None),
        // A table holds an object as JSON text.
        Some(Value::String(text)) if matches!(raw, Raw::Row(_)) => match text.trim() {
            "" => return Ok(None),
            text => serde_json::from_str(text)
                .map_err(|error| place.error(format!("`expect` is not JSON: {error}"), "write it as a JSON object"))?,
        },
        Some(expect) => expect,
    };
    let alone = row.get("prompt").is_some_and(Value::is_string) && row.get("completion").is_none_or(Value::is_null);
    let parsed = match alone {
        true => {
            row.insert("completion".to_string(), Value::from(""));
            record::parse(place, Raw::Row(&row), vocab_size)?
        }
        false => record::parse(place, raw, vocab_size)?,
    };
    Ok(Some((parsed.record, expect)))
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

    fn asked_of(record: &str) -> Result<Option<String>> {
        let found = expectation(Place::line("data", 2), Raw::Json(record.as_bytes()), 10)?;
        let text = |(record, _)| asked(Place::line("data", 2), record).map(|asked| asked.unwrap().1.unwrap());
        found.map(text).transpose()
    }

    /// A question alone is one; a record without `expect` is passed over; one that cannot be read is not.
    #[test]
    fn a_prompt_needs_no_completion_and_a_broken_record_is_refused() {
        let expect = r#""expect": {"exact": "2"}"#;
        let question = Some("1+1=".to_string());
        assert_eq!(asked_of(&format!(r#"{{"prompt": "1+1=", {expect}}}"#)).unwrap(), question);
        assert_eq!(asked_of(&format!(r#"{{"prompt": "1+1=", "completion": "2", {expect}}}"#)).unwrap(), question);
        assert_eq!(asked_of(r#"{"prompt": "1+1=", "completion": "2"}"#).unwrap(), None);
        let error = asked_of(&format!(r#"{{"prompt": "1+1=", {expect}"#)).unwrap_err().to_string();
        assert!(error.contains("data:2") && error.contains("not JSON"), "{error}");
        let row: Map<String, Value> = serde_json::from_value(json!({ "prompt": "1+1=", "expect": "{exact: 2}" })).unwrap();
        let error = expectation(Place::line("data", 2), Raw::Row(&row), 10).err().unwrap().to_string();
        assert!(error.contains("`expect` is not JSON"), "{error}");
    }

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
            (json!({"json_schema": {"required": ["a"]}}), "{\"a\": 1}", true),
            (json!({"json_schema": {"required": ["a"]}}), "{\"b\": 1}", false),
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
            (json!({"json_schema": {"type": "objekt"}}), "json_schema"),
            (json!({"group": "easy"}), "no object"),
            (json!({"exact": "a", "group": 3}), "expect.group"),
        ] {
            let error = Expect::read(Place::line("data", 7), &expect).err().unwrap().to_string();
            assert!(error.contains("data:7") && error.contains(needle), "{error}");
        }
    }
}
