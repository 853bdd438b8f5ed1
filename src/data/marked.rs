//! Messages in which the names of special tokens are marked, so that they can be told from the template's own afterwards.
//!
//! What a message says and what the template writes come out of the template as one text. So each special token that stands in
//! a message as characters is put between two private characters before rendering, wherever the template may take it, and the
//! two are taken out again after it. What stood between them is text. (transformers does the same with
//! `sanitize_control_tokens`.)

use std::ops::Range;

use serde_json::Value;

use crate::text::{Message, TemplateInputs, Tokenizer};

/// Characters for private use: two that no message has are the marks.
pub(super) const PRIVATE: Range<u32> = 0xE000..0xF900;

/// What a template is given, with marks.
pub(super) struct Marked {
    pub messages: Vec<Message>,
    pub inputs: TemplateInputs,
    /// Open and close.
    marks: Option<[char; 2]>,
    /// How many messages have any.
    pub count: usize,
}

/// A rendered text without the marks, and where it is text although it looks like special tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unmarked {
    pub text: String,
    pub literal: Vec<Range<usize>>,
}

impl Marked {
    pub fn of(messages: &[Message], inputs: &TemplateInputs, tokenizer: &Tokenizer) -> Self {
        let mut marked = Self { messages: messages.to_vec(), inputs: inputs.clone(), marks: None, count: 0 };
        let mut texts = Vec::new();
        for message in messages {
            texts.push(message.content.as_str());
            message.more.values().for_each(|value| collect(value, &mut texts));
        }
        inputs.tools.iter().chain(inputs.more.values()).for_each(|value| collect(value, &mut texts));
        let special = tokenizer.special_tokens().iter().map(|(_, token)| token.as_str());
        let names: Vec<&str> = special.filter(|name| !name.is_empty() && texts.iter().any(|text| text.contains(name))).collect();
        if names.is_empty() {
            return marked;
        }
        let free = |mark: &char| !texts.iter().any(|text| text.contains(*mark));
        let mut free = PRIVATE.filter_map(char::from_u32).filter(free);
        let marks = [free.next().unwrap_or('\u{E000}'), free.next().unwrap_or('\u{E001}')];
        for message in &mut marked.messages {
            let mut found = wrap(&mut message.content, &names, marks);
            message.more.values_mut().for_each(|value| found |= wrap_all(value, &names, marks));
            marked.count += usize::from(found);
        }
        for value in marked.inputs.tools.iter_mut().chain(marked.inputs.more.values_mut()) {
            wrap_all(value, &names, marks);
        }
        marked.marks = Some(marks);
        marked
    }

    /// Takes the marks out of what the template made of the messages.
    pub fn unmark(&self, rendered: String) -> Unmarked {
        let Some([open, close]) = self.marks else {
            return Unmarked { text: rendered, literal: Vec::new() };
        };
        let (mut text, mut literal, mut opened) = (String::with_capacity(rendered.len()), Vec::new(), None);
        for character in rendered.chars() {
            if character == open {
                // A mark that the template has torn from its partner still keeps what is around it apart.
                literal.extend(opened.replace(text.len()).map(|at| at..at));
            } else if character == close {
                let start = opened.take().unwrap_or(text.len());
                literal.push(start..text.len());
            } else {
                text.push(character);
            }
        }
        literal.extend(opened.map(|at| at..at));
        Unmarked { text, literal }
    }
}

/// All texts inside `value`. Keys are for the template to look up, and stay as they are.
fn collect<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(items) => items.iter().for_each(|item| collect(item, texts)),
        Value::Object(map) => map.values().for_each(|value| collect(value, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Marks all texts inside `value`; says whether there was anything to mark.
fn wrap_all(value: &mut Value, names: &[&str], marks: [char; 2]) -> bool {
    match value {
        Value::String(text) => wrap(text, names, marks),
        Value::Array(items) => items.iter_mut().fold(false, |found, item| wrap_all(item, names, marks) | found),
        Value::Object(map) => map.values_mut().fold(false, |found, value| wrap_all(value, names, marks) | found),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn wrap(text: &mut String, names: &[&str], marks: [char; 2]) -> bool {
    let found = names.iter().any(|name| text.contains(name));
    if found {
        *text = wrapped(text, names, marks);
    }
    found
}

/// `content` with each of `names` between the marks, the longest first where one is the beginning of another.
fn wrapped(content: &str, names: &[&str], [open, close]: [char; 2]) -> String {
    let (mut out, mut rest) = (String::with_capacity(content.len() + 16), content);
    while !rest.is_empty() {
        let next = names.iter().filter_map(|name| Some((rest.find(name)?, name.len())));
        let Some((at, length)) = next.min_by_key(|&(at, length)| (at, usize::MAX - length)) else { break };
        out.push_str(&rest[..at]);
        out.push(open);
        out.push_str(&rest[at..at + length]);
        out.push(close);
        rest = &rest[at + length..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_out_as_they_went_in() {
        let marks = ['\u{E000}', '\u{E001}'];
        let text = "a<|x|>b<|x|>><|xy|>";
        let marked = Marked { messages: Vec::new(), inputs: TemplateInputs::default(), marks: Some(marks), count: 1 };
        let unmarked = marked.unmark(wrapped(text, &["<|x|>", "<|xy|>", "<|x|>>"], marks));
        assert_eq!(unmarked, Unmarked { text: text.to_string(), literal: vec![1..6, 7..13, 13..19] });
        // Torn apart by a template: nothing is lost, and nothing joins.
        let torn = marked.unmark("p\u{E000}<|x\u{E000}|>\u{E001}\u{E001}".to_string());
        assert_eq!(torn, Unmarked { text: "p<|x|>".to_string(), literal: vec![1..1, 4..6, 6..6] });
    }
}
