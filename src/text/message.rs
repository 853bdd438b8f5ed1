//! [`Message`]: one turn of a conversation as a chat template sees it, and [`TemplateInputs`], what it sees besides.

use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    pub content: String,
    /// What a template that looks for the content finds if there is none.
    pub empty: Empty,
    /// The other keys, which the template can read: `name`, `tool_calls`, `tool_call_id`, `reasoning_content`, ...
    pub more: Map<String, Value>,
    /// Whether the turn is learned if the assistant speaks it; `"weight": 0` makes it context only.
    pub learned: bool,
}

/// How an empty content is written: templates ask for `content is none` or `content is defined`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Empty {
    #[default]
    Text,
    Null,
    Absent,
}

impl Message {
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), empty: Empty::Text, more: Map::new(), learned: true }
    }

    /// Bytes of text that the template is given with it.
    pub fn size(&self) -> usize {
        self.content.len() + self.more.iter().map(|(key, value)| key.len() + size(value)).sum::<usize>()
    }
}

/// As the template sees it: `role`, `content`, the other keys in their order.
impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("role", &self.role)?;
        match self.empty {
            Empty::Null if self.content.is_empty() => map.serialize_entry("content", &())?,
            Empty::Absent if self.content.is_empty() => {}
            _ => map.serialize_entry("content", &self.content)?,
        }
        for (key, value) in &self.more {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// From what [`Serialize`] writes. Records of users are read by [`crate::data::record`], which checks them.
impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut more = Map::deserialize(deserializer)?;
        let Some(Value::String(role)) = more.shift_remove("role") else {
            return Err(D::Error::custom("a message has a `role`"));
        };
        let (content, empty) = match more.shift_remove("content") {
            Some(Value::String(content)) => (content, Empty::Text),
            Some(Value::Null) => (String::new(), Empty::Null),
            None => (String::new(), Empty::Absent),
            Some(_) => return Err(D::Error::custom("the `content` of a message is a text")),
        };
        Ok(Self { role, content, empty, more, learned: true })
    }
}

/// What a template is given beside the messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplateInputs {
    /// Descriptions of functions that the assistant may call: a list of JSON schemas.
    pub tools: Option<Value>,
    /// Variables by name, as `chat_template_kwargs` has them: `enable_thinking`, ...
    pub more: Map<String, Value>,
}

impl TemplateInputs {
    /// Bytes of text that the template is given with it.
    pub fn size(&self) -> usize {
        self.tools.as_ref().map_or(0, size) + self.more.iter().map(|(key, value)| key.len() + size(value)).sum::<usize>()
    }
}

/// About as many bytes as the value has as JSON text. serde_json bounds the depth of what it reads.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum::<usize>() + items.len(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + size(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
    }
}
