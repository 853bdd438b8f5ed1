//! One record: a JSON object, or a row of a table. The kinds that are known are [`KINDS`].
//!
//! What a record says is read in full or refused. A key that could change what is learned, and is not understood, is an error that
//! names it; any other column that is no part of the kind (`id`, `source`, `score`, ...) is passed over, and told of once.

use serde_json::{Map, Value};

pub use super::source::{Place, Raw};
use super::turns;
use crate::text::{Message, TemplateInputs};
use crate::{Error, Result};

/// What a record may look like, for messages to the user.
pub const KINDS: &str = concat!(
    "one JSON object a line, of one of these kinds:\n",
    "    {\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}, {\"role\": \"assistant\", \"content\": \"Hi!\"}]}\n",
    "    {\"prompt\": \"Question: 1+1?\\nAnswer:\", \"completion\": \" 2\"}\n",
    "    {\"text\": \"all of this is learned\"}\n",
    "    {\"conversations\": [{\"from\": \"human\", \"value\": \"Hello\"}, {\"from\": \"gpt\", \"value\": \"Hi!\"}]} (ShareGPT)\n",
    "    {\"instruction\": \"Add.\", \"input\": \"1 and 1\", \"output\": \"2\"} (Alpaca)\n",
    "    {\"input_ids\": [504, 3575], \"labels\": [-100, 3575]}"
);

/// Keys that make a record; a table has a column of such a name.
pub const COLUMNS: [&str; 9] =
    ["messages", "conversations", "prompt", "completion", "text", "instruction", "output", "input_ids", "chosen"];

/// Keys that hold lists or objects, which a table can only hold as JSON text.
const STRUCTURED: [&str; 6] = ["messages", "conversations", "tools", "chat_template_kwargs", "input_ids", "labels"];

/// Keys that change what is learned, or how, wherever they are understood; here they are not. With what to do.
const MEANINGFUL: [(&str, &str); 22] = [
    ("tools", "only records with `messages`, `conversations` or lists of messages can have tools"),
    ("functions", "write the functions as `tools`, a list of {\"type\": \"function\", \"function\": {...}}"),
    ("function_call", "write calls as `tool_calls` of a message"),
    ("chat_template_kwargs", "only records with `messages`, `conversations` or lists of messages can have it"),
    ("chat_template", "the model's own chat template is used: remove the key, or write records with `prompt` and `completion`"),
    ("documents", "write the documents into the messages"),
    ("system", "only records with `messages`, `conversations` or `instruction` can have it: write it into the prompt"),
    ("system_prompt", "name it `system`, or make it the first message"),
    ("history", "write the whole conversation as `messages`"),
    ("image", MEDIA),
    ("images", MEDIA),
    ("audio", MEDIA),
    ("audios", MEDIA),
    ("video", MEDIA),
    ("videos", MEDIA),
    (
        "weight",
        "records have no weights: repeat or remove records; a message can have `\"weight\": 0`, which makes it context only",
    ),
    ("suffix", "write what is to be learned as `completion`, and all before it as `prompt`"),
    ("labels", "only records with `input_ids` can have it"),
    ("completion_mask", "write -100 in `labels` for what is not learned"),
    ("assistant_masks", "write -100 in `labels` for what is not learned"),
    ("loss_mask", "write -100 in `labels` for what is not learned"),
    ("position_ids", "positions are counted from 0: write one record for each sequence"),
];
const MEDIA: &str = "images, audio and video cannot be used: remove the records that need them";

/// Keys of preference data.
const PREFERENCE: [&str; 2] = ["chosen", "rejected"];

/// Bytes of the longest record. As a tree of values, and then as tokens, it takes up to a hundred times as much memory.
pub(super) const LONGEST: usize = 16 << 20;

/// A record as it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Turns of a conversation; what the assistant says is learned, where the message is `learned`.
    Messages { messages: Vec<Message>, inputs: TemplateInputs },
    /// An instruction with its input, if it has any, and the output, which is learned.
    Instruction { system: Option<String>, instruction: String, input: String, output: String },
    /// The completion is learned.
    Completion { prompt: String, completion: String },
    /// All is learned.
    Text(String),
    /// Token ids; `None` is a position that is not learned (-100 in the file).
    Tokens { input_ids: Vec<u32>, labels: Vec<Option<u32>> },
}

impl Record {
    /// The keys that make it what it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Messages { .. } => "messages",
            Self::Instruction { .. } => "instruction",
            Self::Completion { .. } => "prompt/completion",
            Self::Text(_) => "text",
            Self::Tokens { .. } => "input_ids",
        }
    }
}

/// A record, and the keys beside it that change nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    pub record: Record,
    /// `id`, or `messages[].id` for keys of messages, which the chat template can see.
    pub passed_over: Vec<String>,
}

/// Reads one record. `vocab_size`: ids in the record must be smaller.
///
/// # Errors
/// Broken JSON (with the column), no known kind of record or two at once, keys that would change what is learned and are not known,
/// values of the wrong type, ids outside the vocabulary, as many labels as ids not given.
pub fn parse(place: Place<'_>, raw: Raw<'_>, vocab_size: usize) -> Result<Parsed> {
    let mut record = match raw {
        Raw::Json(bytes) => object(place, bytes)?,
        Raw::Row(row) => row.clone(),
    };
    let table = matches!(raw, Raw::Row(_));
    for key in STRUCTURED {
        if let Some(Value::String(text)) = record.get(key) {
            match text.trim() {
                "" if table => drop(record.shift_remove(key)),
                _ => {
                    if let Some(value) = json_text(place, key, text)? {
                        record.insert(key.to_string(), value);
                    }
                }
            }
        }
    }
    // The columns of a data set are the same for all its records: null is what a record has not.
    let nulls: Vec<String> = record.iter().filter(|(_, value)| value.is_null()).map(|(key, _)| key.clone()).collect();
    record.retain(|_, value| !value.is_null());
    Fields { place, record, nulls, used: Vec::new() }.read(vocab_size)
}

/// The JSON object of a line, or of an element of a list.
fn object(place: Place<'_>, bytes: &[u8]) -> Result<Map<String, Value>> {
    if bytes.len() > LONGEST {
        let problem = format!("the record has {} MiB, and the longest that is read {} MiB", bytes.len() >> 20, LONGEST >> 20);
        return Err(place.error(problem, "cut it into several records: a model is trained on --max-length tokens at a time"));
    }
    let text = std::str::from_utf8(bytes).map_err(|cause| {
        let problem = format!("this is not UTF-8 text (byte {} of the record)", cause.valid_up_to() + 1);
        place.error(problem, "save the file as UTF-8")
    })?;
    let value: Value = serde_json::from_str(text).map_err(|cause| {
        let line = place.line + cause.line() - 1;
        let problem = format!("this is not JSON: {}", turns::reason(&cause));
        let proposal = match () {
            () if problem.contains("trailing comma") => "remove the comma before the bracket".to_string(),
            () if problem.contains("hex escape") => {
                "the text holds one half of a character (\\ud800 to \\udfff): write the character itself, or remove the half"
                    .to_string()
            }
            () if problem.contains("EOF") && matches!(text.trim(), "{" | "[") => {
                "a record of JSONL stands on one line: write it without line ends, or all records as one JSON list".to_string()
            }
            () if problem.contains("trailing characters") => {
                "there is more on the line after the record: each record stands on a line of its own, which ends with a line feed"
                    .to_string()
            }
            () if ["NaN", "Infinity"].iter().any(|name| text[byte_of(text, &cause)..].starts_with(name)) => {
                "NaN and Infinity are Python's, not JSON: write null, or remove the key".to_string()
            }
            () => format!("a data file has {KINDS}"),
        };
        Error::bad_input(format!("{}:{line}:{}", place.path, cause.column()), problem, proposal)
    })?;
    match value {
        Value::Object(record) => Ok(record),
        other => {
            let hint = match other {
                Value::Array(_) => {
                    "the line is a JSON list; records are objects, one a line or all in one list. A data file has "
                }
                _ => "a data file has ",
            };
            Err(place.error(format!("the record is {}, not an object", turns::kind(&other)), format!("{hint}{KINDS}")))
        }
    }
}

/// The byte of `text` at which a JSON error was noticed: the first of a word that no value begins with.
fn byte_of(text: &str, cause: &serde_json::Error) -> usize {
    let line: usize = text.split_inclusive('\n').take(cause.line().saturating_sub(1)).map(str::len).sum();
    let at = (line + cause.column().saturating_sub(1)).min(text.len());
    (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// The value that a text holds as JSON. `None` if it is no JSON text, so that the text itself is judged.
fn json_text(place: Place<'_>, key: &str, text: &str) -> Result<Option<Value>> {
    if !text.trim_start().starts_with(['[', '{']) {
        return Ok(None);
    }
    serde_json::from_str(text).map(Some).map_err(|cause| {
        let python = text.contains("{'") || text.contains("['");
        let proposal = match python {
            true => "this is Python's own notation; write the column by json.dumps",
            false => "write the column as JSON text",
        };
        place.error(format!("`{key}` is not JSON: {}", turns::reason(&cause)), proposal)
    })
}

struct Fields<'a> {
    place: Place<'a>,
    record: Map<String, Value>,
    /// Keys whose value was null.
    nulls: Vec<String>,
    /// Keys that are understood.
    used: Vec<&'static str>,
}

impl Fields<'_> {
    fn read(mut self, vocab_size: usize) -> Result<Parsed> {
        if let Some(key) = PREFERENCE.into_iter().find(|key| self.has(key)) {
            let proposal = "graftling learns one answer, not which of two is better: write the better one as a record, `chosen` being \
                            `messages` if it is a list of messages, `completion` (beside `prompt`) if it is a text";
            return Err(self
                .place
                .error(format!("this is a preference record (`{key}`), which is not for this training"), proposal));
        }
        let mut passed_over = Vec::new();
        let record = if self.has("messages") {
            self.conversation("messages", &mut passed_over)?
        } else if self.has("conversations") {
            self.conversation("conversations", &mut passed_over)?
        } else if self.has("prompt") || self.has("completion") {
            self.completion(&mut passed_over)?
        } else if self.has("instruction") {
            self.instruction()?
        } else if self.has("text") {
            self.used.push("text");
            Record::Text(self.text("text")?)
        } else if self.has("input_ids") || self.has("labels") {
            self.tokens(vocab_size)?
        } else {
            return Err(match self.nulls.iter().find(|key| COLUMNS.contains(&key.as_str())) {
                Some(key) => self.place.error(format!("`{key}` is null"), "remove the record, or give it a value"),
                None => self.place.error(
                    format!("this is no known kind of record: {}", turns::keys(&self.record)),
                    format!("a data file has {KINDS}"),
                ),
            });
        };
        self.judge_the_rest(&record, &mut passed_over)?;
        Ok(Parsed { record, passed_over })
    }

    fn has(&self, key: &str) -> bool {
        self.record.contains_key(key)
    }

    /// Refuses what could change what is learned; all else is passed over.
    fn judge_the_rest(&self, record: &Record, passed_over: &mut Vec<String>) -> Result<()> {
        let kind = self.used.first().copied().unwrap_or_default();
        for (key, value) in self.record.iter().filter(|(key, _)| !self.used.contains(&key.as_str())) {
            let refused = |problem: String, proposal: &str| Err(self.place.error(problem, proposal));
            if (turns::is_empty(value) && key != "label") || key == "expect" {
                continue; // `expect` is what `eval --generate` compares with
            }
            if COLUMNS.contains(&key.as_str()) && !restates(record, key, value) {
                let problem = format!("`{key}` beside `{kind}`: these are two records in one");
                return refused(problem, &format!("keep one of them: remove `{key}`, or write the record as another kind"));
            }
            let harmless = match (key.as_str(), value) {
                ("weight", Value::Number(weight)) => weight.as_f64() == Some(1.0),
                _ => false,
            };
            if let Some((_, proposal)) = MEANINGFUL.iter().find(|(name, _)| name == key).filter(|_| !harmless) {
                return refused(format!("`{key}` is not understood in a record with `{kind}`"), proposal);
            }
            let says_true_or_false = |text: &str| ["true", "false"].contains(&text.trim().to_lowercase().as_str());
            if key == "label" && (value.is_boolean() || value.as_str().is_some_and(says_true_or_false)) {
                let proposal = "graftling learns every record: keep those whose label is true, without the label";
                return refused("`label` says which answers are wanted, which is not for this training".to_string(), proposal);
            }
            if key == "attention_mask" && value.as_array().is_none_or(|mask| mask.iter().any(|one| one.as_i64() != Some(1))) {
                return refused("`attention_mask` is not 1 everywhere".to_string(), "remove the padding from the record");
            }
            let known: &[&str] = match record {
                Record::Messages { .. } => &["tools", "chat_template_kwargs", "system"],
                Record::Instruction { .. } => &["input", "system"],
                Record::Tokens { .. } => &["labels"],
                Record::Completion { .. } | Record::Text(_) => &[],
            };
            if let Some(near) = known.iter().find(|known| strsim::damerau_levenshtein(key, known) == 1) {
                return refused(format!("unknown key `{key}`"), &format!("if `{near}` is meant, name it so; if not, rename it"));
            }
            passed_over.push(key.clone());
        }
        Ok(())
    }

    fn get(&self, key: &str) -> Result<&Value> {
        self.record.get(key).ok_or_else(|| {
            let problem = match self.nulls.iter().any(|null| null == key) {
                true => format!("`{key}` is null"),
                false => format!("`{key}` is missing: {}", turns::keys(&self.record)),
            };
            self.place.error(problem, format!("a data file has {KINDS}"))
        })
    }

    fn text(&self, key: &str) -> Result<String> {
        let value = self.get(key)?;
        let problem = || format!("`{key}` is {}, not a text", turns::kind(value));
        value.as_str().map(str::to_string).ok_or_else(|| self.place.error(problem(), "write a text in quotes"))
    }

    /// A text that need not be there, nor hold anything.
    fn optional_text(&mut self, key: &'static str) -> Result<Option<String>> {
        if !self.has(key) {
            return Ok(None);
        }
        self.used.push(key);
        Ok(Some(self.text(key)?).filter(|text| !text.trim().is_empty()))
    }

    fn conversation(&mut self, key: &'static str, passed_over: &mut Vec<String>) -> Result<Record> {
        self.used.push(key);
        let messages = turns::read(self.place, key, self.get(key)?, passed_over)?;
        self.with_inputs(messages)
    }

    /// Adds what a record gives the template beside its messages.
    fn with_inputs(&mut self, mut messages: Vec<Message>) -> Result<Record> {
        if let Some(system) = self.optional_text("system")? {
            match messages.first().filter(|first| first.role == "system") {
                None => messages.insert(0, Message::new("system", system)),
                Some(first) if first.content.trim() == system.trim() => {}
                Some(_) => {
                    let problem = "`system` differs from the system message";
                    return Err(self.place.error(problem, "keep one of them"));
                }
            }
        }
        let mut inputs = TemplateInputs::default();
        if self.has("tools") {
            self.used.push("tools");
            inputs.tools = turns::tools(self.place, self.get("tools")?)?;
        }
        if self.has("chat_template_kwargs") {
            self.used.push("chat_template_kwargs");
            inputs.more = turns::variables(self.place, self.get("chat_template_kwargs")?)?;
        }
        Ok(Record::Messages { messages, inputs })
    }

    fn completion(&mut self, passed_over: &mut Vec<String>) -> Result<Record> {
        self.used.extend(["prompt", "completion"]);
        let (prompt, completion) = (self.get("prompt")?, self.get("completion")?);
        if !prompt.is_array() && !completion.is_array() {
            return Ok(Record::Completion { prompt: self.text("prompt")?, completion: self.text("completion")? });
        }
        if !(prompt.is_array() && completion.is_array()) {
            let problem = format!("`prompt` is {}, but `completion` is {}", turns::kind(prompt), turns::kind(completion));
            return Err(self
                .place
                .error(problem, "write both as texts, both as lists of messages, or all as one list, `messages`"));
        }
        let mut messages = turns::read(self.place, "prompt", prompt, passed_over)?;
        for message in &mut messages {
            message.learned = false;
        }
        messages.extend(turns::read(self.place, "completion", completion, passed_over)?);
        self.with_inputs(messages)
    }

    fn instruction(&mut self) -> Result<Record> {
        self.used.push("instruction");
        let instruction = self.text("instruction")?;
        // Dolly's names for the same: context and response.
        let named = |one: &'static str, other: &'static str| if self.has(other) && !self.has(one) { other } else { one };
        let (input_key, output_key) = (named("input", "context"), named("output", "response"));
        let input = self.optional_text(input_key)?.unwrap_or_default();
        self.used.push(output_key);
        let output = self.text(output_key)?;
        Ok(Record::Instruction { system: self.optional_text("system")?, instruction, input, output })
    }

    fn tokens(&mut self, vocab_size: usize) -> Result<Record> {
        self.used.extend(["input_ids", "labels"]);
        let input_ids = self.ids("input_ids", vocab_size, false)?;
        let labels = if self.record.contains_key("labels") { self.ids("labels", vocab_size, true)? } else { input_ids.clone() };
        if input_ids.len() != labels.len() {
            return Err(self.place.error(
                format!("{} `input_ids` but {} `labels`", input_ids.len(), labels.len()),
                "give one label for each id: the id itself where it is to be learned, -100 elsewhere",
            ));
        }
        let input_ids = input_ids.into_iter().flatten().collect();
        Ok(Record::Tokens { input_ids, labels })
    }

    /// Ids below `vocab_size`; -100 becomes `None` where it is allowed.
    fn ids(&self, key: &str, vocab_size: usize, masked: bool) -> Result<Vec<Option<u32>>> {
        let value = self.get(key)?;
        let Some(list) = value.as_array() else {
            return Err(self.place.error(format!("`{key}` is {}, not a list", turns::kind(value)), "write a list of token ids"));
        };
        let read = |(index, value): (usize, &Value)| match value.as_i64() {
            Some(-100) if masked => Ok(None),
            Some(id) if id >= 0 && (id as u64) < vocab_size as u64 => Ok(Some(id as u32)),
            Some(id) => Err(self.place.error(
                format!("`{key}[{index}]` is {id}, but ids run from 0 to {}", vocab_size.saturating_sub(1)),
                match masked {
                    true => "write -100 for a position that is not learned; other ids must come from this model's tokenizer",
                    false => "the ids must come from this model's tokenizer",
                },
            )),
            None => {
                Err(self.place.error(format!("`{key}[{index}]` is {value}, not a whole number"), "write a list of token ids"))
            }
        };
        list.iter().enumerate().map(read).collect()
    }
}

/// Whether the column `key` only repeats what the record says: a rendering as one text, or the first question once more. Data sets
/// carry such columns (`text` of Alpaca, `prompt` of UltraChat).
fn restates(record: &Record, key: &str, value: &Value) -> bool {
    let Some(text) = value.as_str() else { return false };
    let parts: Vec<&str> = match record {
        Record::Messages { messages, .. } => messages.iter().map(|message| message.content.as_str()).collect(),
        Record::Instruction { instruction, input, output, .. } => vec![instruction, input, output],
        Record::Completion { prompt, completion } => vec![prompt, completion],
        Record::Text(_) | Record::Tokens { .. } => return false,
    };
    match key {
        "text" => !parts.is_empty() && parts.iter().all(|part| text.contains(part.trim())),
        "prompt" => match record {
            Record::Messages { messages, .. } => {
                messages.iter().find(|message| message.role == "user").is_some_and(|first| first.content.trim() == text.trim())
            }
            _ => false,
        },
        _ => false,
    }
}
