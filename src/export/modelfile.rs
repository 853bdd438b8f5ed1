//! `Modelfile` for Ollama: which file, where an answer ends, and, where it is certain, how a conversation is written.
//!
//! Ollama writes conversations by a template of its own language. One stands here only where it gives, letter by letter, what the model's
//! own template gives; else Ollama looks for one that it knows by the template in the GGUF file.

use std::fmt::Write;
use std::path::Path;

use crate::text::{ChatTemplate, Message};

/// What a `Modelfile` says.
pub struct Modelfile<'a> {
    /// The model's file, relative to the `Modelfile`, or from the root.
    pub from: &'a Path,
    /// An adapter's file.
    pub adapter: Option<&'a Path>,
    pub template: Option<&'a ChatTemplate>,
    /// Marks that end an answer.
    pub stops: &'a [String],
}

/// A way to write conversations: for Ollama, and in parts.
struct Style {
    ollama: &'static str,
    /// Before the content of a turn, by its role, and after it.
    before: fn(&str) -> String,
    after: &'static str,
    /// Before the answer.
    answer: &'static str,
}

static STYLES: [Style; 2] = [
    Style {
        ollama: "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
        before: |role| format!("<|im_start|>{role}\n"),
        after: "<|im_end|>\n",
        answer: "<|im_start|>assistant\n",
    },
    Style {
        ollama: "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}\
                 <|start_header_id|>assistant<|end_header_id|>\n\n",
        before: |role| format!("<|start_header_id|>{role}<|end_header_id|>\n\n"),
        after: "<|eot_id|>",
        answer: "<|start_header_id|>assistant<|end_header_id|>\n\n",
    },
];

impl Style {
    fn write(&self, messages: &[Message]) -> String {
        let turn = |message: &Message| format!("{}{}{}", (self.before)(&message.role), message.content, self.after);
        messages.iter().map(turn).collect::<String>() + self.answer
    }
}

/// What Ollama is told of a template: its own, and the system message where the model's template puts one by itself.
fn style(template: &ChatTemplate) -> Option<(&'static str, Option<String>)> {
    let render = |messages: &[Message]| template.render(messages, true).ok();
    let turns = [("system", "Be brief."), ("user", "One?"), ("assistant", "Two."), ("user", "Three?")];
    let messages: Vec<Message> = turns.iter().map(|(role, content)| Message::new(*role, *content)).collect();
    let whole = render(&messages)?;
    // Where a text begins is for the tokenizer: Ollama adds it.
    let start = |text: &str, style: &Style| text.find(&(style.before)("system")).unwrap_or(0);
    let style = STYLES.iter().find(|style| whole[start(&whole, style)..] == style.write(&messages))?;
    let alone = render(&messages[1..])?;
    let rest = style.write(&messages[1..]);
    let head = alone.strip_suffix(&rest)?;
    let system = head.find(&(style.before)("system")).map(|at| &head[at..]);
    let system = match system {
        None => None,
        Some(turn) => Some(turn.strip_prefix(&(style.before)("system"))?.strip_suffix(style.after)?.to_owned()),
    };
    Some((style.ollama, system))
}

impl Modelfile<'_> {
    /// Its text.
    pub fn text(&self) -> String {
        // Writing to a String cannot fail; the results are dropped for that reason.
        let mut text = String::from("# For Ollama: ollama create NAME -f Modelfile\n");
        let path = |path: &Path| if path.is_absolute() { path.display().to_string() } else { format!("./{}", path.display()) };
        let _ = writeln!(text, "FROM {}", path(self.from));
        if let Some(adapter) = self.adapter {
            let _ = writeln!(text, "ADAPTER {}", path(adapter));
        }
        if let Some((template, system)) = self.template.and_then(style) {
            let _ = writeln!(text, "TEMPLATE \"\"\"{template}\"\"\"");
            if let Some(system) = system.filter(|system| !system.contains("\"\"\"")) {
                let _ = writeln!(text, "SYSTEM \"\"\"{system}\"\"\"");
            }
        }
        for stop in self.stops {
            let _ = writeln!(text, "PARAMETER stop {stop:?}");
        }
        text
    }
}
