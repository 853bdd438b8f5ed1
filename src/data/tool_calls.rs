//! Tool calls in the form that a chat template reads.
//!
//! OpenAI's files hold the arguments of a call as JSON text, transformers' hold an object, and templates differ: some write the text
//! as it is, some write any value as JSON (which puts a text in quotes once more), some fail on one of the two. So the form of the
//! record is tried first, and the other one where the template cannot be meant to read it.

use serde_json::Value;

use crate::text::{ChatTemplate, Message, TemplateInputs};
use crate::{Error, Result};

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Text,
    Object,
}

/// `messages` with the arguments of their calls as `template` reads them.
///
/// # Errors
/// The template does not show the calls in either form: they would be lost.
pub(super) fn suited(template: &ChatTemplate, messages: Vec<Message>, inputs: &TemplateInputs) -> Result<Vec<Message>> {
    if !messages.iter().any(|message| message.more.contains_key("tool_calls")) {
        return Ok(messages);
    }
    let as_objects = with_arguments(&messages, Form::Object);
    let rendered = |messages: &[Message]| template.render_with(messages, inputs, false);
    let given = rendered(&messages);
    let quoted_twice = given.as_ref().is_ok_and(|text| {
        let texts = arguments(&messages).filter(|given| given.is_string());
        texts.into_iter().any(|given| text.contains(&given.to_string()))
    });
    let (messages, text) = match given {
        Ok(text) if !quoted_twice => (messages, text),
        given => {
            let other = if messages == as_objects { with_arguments(&messages, Form::Text) } else { as_objects };
            match (rendered(&other), given) {
                (Ok(text), _) => (other, text),
                (Err(_), Ok(text)) => (messages, text),
                (Err(_), Err(cause)) => return Err(cause),
            }
        }
    };
    let names = calls(&messages).filter_map(|call| call.get("function").unwrap_or(call).get("name")?.as_str());
    if let Some(name) = names.into_iter().find(|name| !text.contains(name)) {
        return Err(Error::bad_input(
            template.origin(),
            format!("the chat template does not show the call of `{name}`: this model was not made to call tools so"),
            "write the call into the content, in the words that the model shall use, or use a model whose template has tool calls",
        ));
    }
    Ok(messages)
}

/// What of a conversation does not appear in its `text`: the model would never read it.
pub(super) fn unseen(messages: &[Message], inputs: &TemplateInputs, text: &str) -> Vec<&'static str> {
    let mut unseen = Vec::new();
    let named = |tool: &Value| Some(tool.get("function").unwrap_or(tool).get("name")?.as_str()?.to_string());
    let tools = inputs.tools.as_ref().and_then(Value::as_array);
    if tools.is_some_and(|tools| tools.iter().filter_map(named).any(|name| !text.contains(&name))) {
        unseen.push("`tools`");
    }
    for (key, quoted) in [("reasoning_content", "`reasoning_content`"), ("thinking", "`thinking`"), ("reasoning", "`reasoning`")]
    {
        // Templates drop what was thought in earlier turns, so one that is shown is enough.
        let mut thoughts = messages.iter().filter_map(|message| message.more.get(key)?.as_str()).map(str::trim);
        let mut thoughts = thoughts.by_ref().filter(|thought| !thought.is_empty()).peekable();
        if thoughts.peek().is_some() && !thoughts.any(|thought| text.contains(thought)) {
            unseen.push(quoted);
        }
    }
    unseen
}

fn calls(messages: &[Message]) -> impl Iterator<Item = &Value> {
    messages.iter().filter_map(|message| message.more.get("tool_calls")?.as_array()).flatten()
}

fn arguments(messages: &[Message]) -> impl Iterator<Item = &Value> {
    calls(messages).filter_map(|call| call.get("function").unwrap_or(call).get("arguments"))
}

fn with_arguments(messages: &[Message], form: Form) -> Vec<Message> {
    let mut messages = messages.to_vec();
    let lists = messages.iter_mut().filter_map(|message| message.more.get_mut("tool_calls")?.as_array_mut());
    for call in lists.flatten() {
        let function = if call.get("function").is_some() { &mut call["function"] } else { call };
        let Some(given) = function.get_mut("arguments") else { continue };
        let other = match (form, &*given) {
            (Form::Object, Value::String(text)) => serde_json::from_str(text).ok().filter(Value::is_object),
            (Form::Text, Value::Object(_)) => Some(Value::String(given.to_string())),
            _ => None,
        };
        if let Some(other) = other {
            *given = other;
        }
    }
    messages
}
