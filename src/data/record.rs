//! One line of a JSONL file. Four kinds of record are known; anything else is an error that names the line.

use serde_json::{Map, Value};

use crate::text::Message;
use crate::{Error, Result};

/// What a record may look like, for messages to the user.
pub const KINDS: &str = concat!(
    "one JSON object a line, of one of these kinds:\n",
    "    {\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}, {\"role\": \"assistant\", \"content\": \"Hi!\"}]}\n",
    "    {\"prompt\": \"Question: 1+1?\\nAnswer:\", \"completion\": \" 2\"}\n",
    "    {\"text\": \"all of this is learned\"}\n",
    "    {\"input_ids\": [504, 3575], \"labels\": [-100, 3575]}"
);

/// Roles that chat templates know. A role outside this list is nearly always a misspelling, and would make a turn that is
/// silently not learned.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "ipython"];

/// Bytes of the longest record. As a tree of values, and then as tokens, it takes up to a hundred times as much memory.
const LONGEST: usize = 16 << 20;

/// A record as it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Turns of a conversation; what the assistant says is learned.
    Messages(Vec<Message>),
    /// The completion is learned.
    Completion { prompt: String, completion: String },
    /// All is learned.
    Text(String),
    /// Token ids; `None` is a position that is not learned (-100 in the file).
    Tokens { input_ids: Vec<u32>, labels: Vec<Option<u32>> },
}

/// Where a record stands, for messages.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub path: &'a str,
    /// Counted from 1.
    pub line: usize,
}

impl Place<'_> {
    pub fn error(&self, problem: impl std::fmt::Display, proposal: impl std::fmt::Display) -> Error {
        Error::bad_input(self, problem, proposal)
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.path, self.line)
    }
}

/// Reads one line. `vocab_size`: ids in the record must be smaller.
///
/// # Errors
/// Broken JSON (with the column), no known kind of record or two at once, unknown keys, values of the wrong type, ids
/// outside the vocabulary, as many labels as ids not given.
pub fn parse(place: Place<'_>, line: &str, vocab_size: usize) -> Result<Record> {
    if line.len() > LONGEST {
        let problem = format!("the record has {} MiB, and the longest that is read {} MiB", line.len() >> 20, LONGEST >> 20);
        return Err(place.error(problem, "cut it into several records: a model is trained on --max-length tokens at a time"));
    }
    let value: Value = serde_json::from_str(line).map_err(|cause| {
        let problem = format!("this is not JSON: {}", reason(&cause));
        Error::bad_input(format!("{place}:{}", cause.column()), problem, format!("a data file has {KINDS}"))
    })?;
    let Value::Object(record) = value else {
        let hint = match value {
            Value::Array(_) => "the line is a JSON list; a data file has no outer list and no commas between records. It has ",
            _ => "a data file has ",
        };
        return Err(place.error(format!("the record is {}, not an object", kind(&value)), format!("{hint}{KINDS}")));
    };
    let field = Fields { place, record: &record };
    let kinds = [("messages", None), ("prompt", Some("completion")), ("text", None), ("input_ids", Some("labels"))];
    let mut present = kinds
        .iter()
        .filter(|(first, second)| record.contains_key(*first) || second.is_some_and(|second| record.contains_key(second)));
    let Some(&(first, second)) = present.next() else {
        return Err(
            place.error(format!("this is no known kind of record: {}", keys(&record)), format!("a data file has {KINDS}"))
        );
    };
    let allowed = |key: &str| key == first || Some(key) == second;
    if let Some(key) = record.keys().find(|key| !allowed(key)) {
        let pair = second.map(|second| format!(" and `{second}`")).unwrap_or_default();
        return Err(place.error(
            format!("unknown key `{key}` in a record with `{first}`"),
            format!("such a record has `{first}`{pair} and nothing else: remove `{key}`, or write the record as another kind"),
        ));
    }
    match first {
        "messages" => field.messages(),
        "prompt" => Ok(Record::Completion { prompt: field.text("prompt")?, completion: field.text("completion")? }),
        "text" => Ok(Record::Text(field.text("text")?)),
        _ => field.tokens(vocab_size),
    }
}

struct Fields<'a> {
    place: Place<'a>,
    record: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn get(&self, key: &str) -> Result<&Value> {
        self.record.get(key).ok_or_else(|| {
            self.place.error(format!("`{key}` is missing: {}", keys(self.record)), format!("a data file has {KINDS}"))
        })
    }

    fn text(&self, key: &str) -> Result<String> {
        let value = self.get(key)?;
        value.as_str().map(str::to_string).ok_or_else(|| {
            let conversation = value.is_array() && matches!(key, "prompt" | "completion");
            let proposal = if conversation { "write a conversation as one list, `messages`" } else { "write a text in quotes" };
            self.place.error(format!("`{key}` is {}, not a text", kind(value)), proposal)
        })
    }

    fn messages(&self) -> Result<Record> {
        let value = self.get("messages")?;
        let proposal = "`messages` is a list of {\"role\": \"user\", \"content\": \"...\"}";
        let Some(list) = value.as_array() else {
            return Err(self.place.error(format!("`messages` is {}, not a list", kind(value)), proposal));
        };
        let mut messages = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            let name = format!("messages[{index}]");
            let Some(message) = value.as_object() else {
                return Err(self.place.error(format!("`{name}` is {}, not an object", kind(value)), proposal));
            };
            let text = |key: &str| match message.get(key) {
                Some(Value::String(text)) => Ok(text.clone()),
                Some(Value::Array(_)) if key == "content" => Err(self.place.error(
                    format!("`{name}.content` is a list of parts, which is not supported"),
                    "write the content as one text (images and other media cannot be used)",
                )),
                Some(other) => Err(self.place.error(format!("`{name}.{key}` is {}, not a text", kind(other)), proposal)),
                None => Err(self.place.error(format!("`{name}` has no `{key}`: {}", keys(message)), proposal)),
            };
            let message_read = Message::new(text("role")?, text("content")?);
            if let Some(key) = message.keys().find(|key| !matches!(key.as_str(), "role" | "content")) {
                let proposal = "a message has `role` and `content` and nothing else; tool calls are not supported yet";
                return Err(self.place.error(format!("unknown key `{key}` in `{name}`"), proposal));
            }
            if !ROLES.contains(&message_read.role.as_str()) {
                return Err(self.place.error(
                    format!("unknown role `{}` in `{name}`", message_read.role),
                    format!(
                        "roles are {} (other names for them: human is user, gpt, bot and model are assistant)",
                        ROLES.join(", ")
                    ),
                ));
            }
            messages.push(message_read);
        }
        if messages.is_empty() {
            return Err(self.place.error("`messages` is empty", proposal));
        }
        Ok(Record::Messages(messages))
    }

    fn tokens(&self, vocab_size: usize) -> Result<Record> {
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
            return Err(self.place.error(format!("`{key}` is {}, not a list", kind(value)), "write a list of token ids"));
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

/// What a JSON error says, without the position, which the place already gives.
fn reason(cause: &serde_json::Error) -> String {
    let text = cause.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_string(),
        None => text,
    }
}

fn keys(record: &Map<String, Value>) -> String {
    match record.len() {
        0 => "it is empty".to_string(),
        _ => format!("its keys are {}", record.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
