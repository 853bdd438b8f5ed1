//! The messages of a record: roles, contents, tool calls, weights, whatever names a data set gives them.
//!
//! All keys of a message reach the chat template, as in transformers' `apply_chat_template`, but for three things that are brought
//! into one form first: null keys are left out, a list of text parts becomes one text (the parts one behind the other, as templates
//! write them), and ShareGPT's `from` and `value` become `role` and `content`. A key that says what is learned is understood
//! (`weight`) or refused.

use serde_json::{Map, Value, json};

use super::source::Place;
use crate::text::{Empty, Message};
use crate::{Error, Result};

/// Roles that chat templates know. A role outside this list is nearly always a misspelling, and would make a turn that is
/// silently not learned.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "ipython"];

/// What ShareGPT's `from` says, by role.
const FROM: [(&str, &[&str]); 4] = [
    ("user", &["human", "user"]),
    ("assistant", &["gpt", "assistant", "chatgpt", "bing", "bard", "bot", "model", "ai", "claude"]),
    ("system", &["system"]),
    ("tool", &["tool", "observation", "function_response", "tool_response", "function", "ipython"]),
];
/// ShareGPT's assistant turns that call a function, with the call as JSON text.
const CALLS: [&str; 2] = ["function_call", "tool_call"];

/// Keys of a message that templates know; others are passed on as well, and told of.
const KNOWN: [&str; 6] = ["name", "tool_calls", "tool_call_id", "reasoning_content", "thinking", "reasoning"];

/// Keys of a message that say what is learned or said, in ways that are not read here.
const MEANINGFUL: [(&str, &str); 16] = [
    (
        "function_call",
        "write it as `tool_calls`: [{\"type\": \"function\", \"function\": {\"name\": ..., \"arguments\": {...}}}]",
    ),
    ("refusal", "write the refusal as `content`"),
    ("train", WEIGHT),
    ("training", WEIGHT),
    ("train_detail", WEIGHT),
    ("trainable", WEIGHT),
    ("loss", WEIGHT),
    ("loss_mask", WEIGHT),
    ("loss_weight", WEIGHT),
    ("mask", WEIGHT),
    ("prefix", "write the text that is given, and the one that is learned, as `prompt` and `completion`"),
    ("image", MEDIA),
    ("images", MEDIA),
    ("audio", MEDIA),
    ("video", MEDIA),
    ("videos", MEDIA),
];
const WEIGHT: &str = "write `\"weight\": 0` in a message that is context only, and 1, or nothing, in one that is learned";
const MEDIA: &str = "images, audio and video cannot be used: remove the records that need them";
const PROPOSAL: &str =
    "a list of messages is [{\"role\": \"user\", \"content\": \"...\"}, {\"role\": \"assistant\", \"content\": \"...\"}]";

/// Reads the list of messages under `key`. Keys that no template is known to read are added to `passed_over`.
///
/// # Errors
/// It is no list of messages; a role, a part of a content, or a key that would change what is learned is not known.
pub(super) fn read(place: Place<'_>, key: &str, value: &Value, passed_over: &mut Vec<String>) -> Result<Vec<Message>> {
    let Some(list) = value.as_array() else {
        return Err(place.error(format!("`{key}` is {}, not a list", kind(value)), PROPOSAL));
    };
    if list.is_empty() {
        return Err(place.error(format!("`{key}` is empty"), PROPOSAL));
    }
    let mut messages = Vec::with_capacity(list.len());
    for (index, value) in list.iter().enumerate() {
        let turn = Turn { place, name: format!("{key}[{index}]") };
        let Some(message) = value.as_object() else {
            return Err(place.error(format!("`{}` is {}, not an object", turn.name, kind(value)), PROPOSAL));
        };
        messages.push(turn.read(message, key, passed_over)?);
    }
    Ok(messages)
}

struct Turn<'a> {
    place: Place<'a>,
    name: String,
}

impl Turn<'_> {
    fn error(&self, problem: String, proposal: impl std::fmt::Display) -> Error {
        self.place.error(problem, proposal)
    }

    fn read(&self, message: &Map<String, Value>, list: &str, passed_over: &mut Vec<String>) -> Result<Message> {
        let mut more = message.clone();
        let role = more.shift_remove("role").filter(|role| !role.is_null());
        let from = more.shift_remove("from").filter(|from| !from.is_null());
        let (role, called) = match (role, from) {
            (Some(_), Some(_)) => {
                return Err(self.error(format!("`{}` has `role` and `from`", self.name), "keep one of them"));
            }
            (Some(role), None) => (self.role(&role)?, false),
            (None, Some(from)) => self.from(&from)?,
            (None, None) => {
                return Err(self.error(format!("`{}` has no `role`: {}", self.name, keys(message)), PROPOSAL));
            }
        };
        let content = match (more.shift_remove("content"), more.shift_remove("value")) {
            (Some(content), None) | (None, Some(content)) => Some(content),
            (Some(content), Some(value)) if value.is_null() => Some(content),
            (Some(_), Some(_)) => {
                return Err(self.error(format!("`{}` has `content` and `value`", self.name), "keep one of them"));
            }
            (None, None) => None,
        };
        more.retain(|_, value| !value.is_null());
        self.calls(&mut more, &role)?;
        let mut read = Message::new(role, "");
        let silent = more.contains_key("tool_calls");
        match content {
            Some(Value::String(call)) if called => {
                more.insert("tool_calls".to_string(), self.call_of_text(&call)?);
                read.empty = Empty::Absent;
            }
            Some(Value::Null) if silent => read.empty = Empty::Null,
            None if silent => read.empty = Empty::Absent,
            Some(content) => read.content = self.content(&content)?,
            None => return Err(self.error(format!("`{}` has no `content`: {}", self.name, keys(message)), PROPOSAL)),
        }
        if let Some(weight) = more.shift_remove("weight") {
            read.learned = self.weight(&weight, &read.role)?;
        }
        for (key, value) in &more {
            // False says much where it is asked whether a message is learned.
            let says_nothing = |proposal: &str| proposal != WEIGHT && is_empty(value);
            let meaningful = MEANINGFUL.iter().find(|(name, _)| name == key);
            if let Some((_, proposal)) = meaningful.filter(|(_, proposal)| !says_nothing(proposal)) {
                return Err(self.error(format!("`{key}` in `{}` is not understood", self.name), proposal));
            }
            if !KNOWN.contains(&key.as_str()) {
                passed_over.push(format!("{list}[].{key}"));
            }
        }
        for key in ["reasoning_content", "thinking", "reasoning"] {
            if let Some(other) = more.get(key).filter(|value| !value.is_string()) {
                return Err(self.error(format!("`{}.{key}` is {}, not a text", self.name, kind(other)), "write it as a text"));
            }
        }
        read.more = more;
        Ok(read)
    }

    fn role(&self, role: &Value) -> Result<String> {
        match role.as_str() {
            Some(role) if ROLES.contains(&role) => Ok(role.to_string()),
            Some(role) => {
                let proposal = format!(
                    "roles are {} (other names for them: human is user, gpt, bot and model are assistant)",
                    ROLES.join(", ")
                );
                Err(self.error(format!("unknown role `{role}` in `{}`", self.name), proposal))
            }
            None => Err(self.error(format!("`{}.role` is {}, not a text", self.name, kind(role)), PROPOSAL)),
        }
    }

    /// The role that ShareGPT's `from` means, and whether the value is a function call.
    fn from(&self, from: &Value) -> Result<(String, bool)> {
        let name = from.as_str().map(|from| from.trim().to_lowercase()).unwrap_or_default();
        if CALLS.contains(&name.as_str()) {
            return Ok(("assistant".to_string(), true));
        }
        match FROM.iter().find(|(_, names)| names.contains(&name.as_str())) {
            Some((role, _)) => Ok(((*role).to_string(), false)),
            None => {
                let known: Vec<&str> = FROM.iter().flat_map(|(_, names)| names.iter()).chain(&CALLS).copied().collect();
                let proposal = format!("`from` is one of {}", known.join(", "));
                Err(self.error(format!("unknown speaker {from} in `{}.from`", self.name), proposal))
            }
        }
    }

    fn content(&self, content: &Value) -> Result<String> {
        let name = &self.name;
        let parts = match content {
            Value::String(text) => return Ok(text.clone()),
            Value::Array(parts) => parts,
            other => return Err(self.error(format!("`{name}.content` is {}, not a text", kind(other)), PROPOSAL)),
        };
        let mut all = String::new();
        for (index, part) in parts.iter().enumerate() {
            let what = part.get("type").and_then(Value::as_str).unwrap_or("text");
            match part.as_str().or_else(|| part.get("text")?.as_str()).filter(|_| what == "text") {
                Some(text) => all += text,
                None if what != "text" => {
                    let problem = format!("`{name}.content[{index}]` is a part of type `{what}`: only text is read");
                    return Err(self.error(problem, MEDIA));
                }
                None => {
                    let problem = format!("`{name}.content` is a list of parts, and part {index} has no `text`");
                    return Err(self.error(problem, "a part is {\"type\": \"text\", \"text\": \"...\"}"));
                }
            }
        }
        Ok(all)
    }

    fn weight(&self, weight: &Value, role: &str) -> Result<bool> {
        let learned = match weight {
            Value::Bool(learned) => Some(*learned),
            other => other.as_f64().filter(|weight| [0.0, 1.0].contains(weight)).map(|weight| weight == 1.0),
        };
        match learned {
            Some(true) if role != "assistant" => {
                let proposal = "only what the assistant says is learned: remove the weight, or write 0";
                Err(self.error(format!("`{}` is of the role `{role}` and has `weight` 1", self.name), proposal))
            }
            Some(learned) => Ok(learned),
            None => Err(self.error(format!("`{}.weight` is {weight}", self.name), "a weight is 0 (context only) or 1 (learned)")),
        }
    }

    /// Checks `tool_calls`, given as a list or as JSON text; an empty list is none.
    fn calls(&self, more: &mut Map<String, Value>, role: &str) -> Result<()> {
        let Some(mut calls) = more.get("tool_calls").cloned() else { return Ok(()) };
        let place = || format!("`{}.tool_calls`", self.name);
        let shape = "calls are [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": {...}}}]";
        if let Value::String(text) = &calls {
            if text.trim().is_empty() {
                more.shift_remove("tool_calls");
                return Ok(());
            }
            calls = serde_json::from_str(text)
                .map_err(|cause| self.error(format!("{} is not JSON: {}", place(), reason(&cause)), shape))?;
        }
        let Some(list) = calls.as_array() else {
            return Err(self.error(format!("{} is {}, not a list", place(), kind(&calls)), shape));
        };
        if list.is_empty() {
            more.shift_remove("tool_calls");
            return Ok(());
        }
        if role != "assistant" {
            return Err(self.error(format!("{}: only the assistant calls tools, not `{role}`", place()), "mend the role"));
        }
        for (index, call) in list.iter().enumerate() {
            let function = call.get("function").unwrap_or(call);
            let named = function.get("name").is_some_and(Value::is_string);
            let arguments = function.get("arguments");
            if !named || arguments.is_some_and(|given| !(given.is_object() || given.is_string() || given.is_null())) {
                return Err(self.error(format!("{}: call {index} has no `name`, or `arguments` of a wrong type", place()), shape));
            }
        }
        more.insert("tool_calls".to_string(), calls);
        Ok(())
    }

    /// ShareGPT's `{"name": ..., "arguments": ...}` as text, one call or a list of them.
    fn call_of_text(&self, text: &str) -> Result<Value> {
        let parsed: Option<Value> = serde_json::from_str(text).ok();
        let calls = match parsed {
            Some(Value::Array(calls)) => calls,
            Some(call) => vec![call],
            None => Vec::new(),
        };
        let named = |call: &Value| call.get("name").is_some_and(Value::is_string);
        if calls.is_empty() || !calls.iter().all(named) {
            let problem = format!("`{}` is a function call, but its value is not the JSON of one", self.name);
            return Err(self.error(problem, "the value is {\"name\": \"f\", \"arguments\": {...}} as text"));
        }
        let call = |call: Value| json!({"type": "function", "function": call});
        Ok(calls.into_iter().map(call).collect())
    }
}

/// `tools` as the template wants it: a list of objects, which may be given as JSON text. `None` if there are none.
pub(super) fn tools(place: Place<'_>, value: &Value) -> Result<Option<Value>> {
    let shape = "tools are JSON schemas: [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {...}}}]";
    let Some(list) = value.as_array() else {
        return if is_empty(value) {
            Ok(None)
        } else {
            Err(place.error(format!("`tools` is {}, not a list", kind(value)), shape))
        };
    };
    let mut tools = Vec::with_capacity(list.len());
    for (index, tool) in list.iter().enumerate() {
        let tool = match tool {
            Value::String(text) => serde_json::from_str(text)
                .map_err(|cause| place.error(format!("`tools[{index}]` is not JSON: {}", reason(&cause)), shape))?,
            other => other.clone(),
        };
        if !tool.is_object() {
            return Err(place.error(format!("`tools[{index}]` is {}, not an object", kind(&tool)), shape));
        }
        tools.push(tool);
    }
    Ok(Some(Value::Array(tools)).filter(|tools| !is_empty(tools)))
}

/// `chat_template_kwargs`: variables for the template, but for those that the conversation itself makes.
pub(super) fn variables(place: Place<'_>, value: &Value) -> Result<Map<String, Value>> {
    const OWN: [&str; 7] =
        ["messages", "tools", "add_generation_prompt", "continue_final_message", "bos_token", "eos_token", "chat_template"];
    let Some(variables) = value.as_object() else {
        return Err(place.error(
            format!("`chat_template_kwargs` is {}, not an object", kind(value)),
            "write {\"enable_thinking\": false}, or what else the chat template asks for",
        ));
    };
    if let Some(key) = variables.keys().find(|key| OWN.contains(&key.as_str())) {
        let problem = format!("`chat_template_kwargs.{key}` would replace what the record or the model gives");
        return Err(place.error(problem, format!("remove `{key}`")));
    }
    Ok(variables.clone())
}

/// Null, false, or without content: says nothing under any key.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// What a JSON error says, without the position, which the place already gives.
pub(super) fn reason(cause: &serde_json::Error) -> String {
    let text = cause.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_string(),
        None => text,
    }
}

pub(super) fn keys(record: &Map<String, Value>) -> String {
    match record.len() {
        0 => "it is empty".to_string(),
        _ => format!("its keys are {}", record.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")),
    }
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
