//! Which characters of a rendered conversation the assistant wrote.
//!
//! A chat template is a program: it may trim, merge or drop what it is given. So nothing is assumed about its form, only
//! compared. The whole conversation is rendered once, and an assistant turn is looked for in that text in two ways:
//!
//! 1. *By prefixes.* The text of all turns before it, with the generation prompt, must be the beginning of the whole, and so
//!    must the text of all turns up to it. What lies between is exactly what the model will have to generate in this place.
//! 2. *By a stand-in.* Templates that write earlier turns differently once later ones follow (dropping what a reasoning model
//!    thought) fail the first test. Then the turn's content is replaced by a word that occurs nowhere else. Where this word
//!    appears, the turn's own text stands in the whole, if all around it is the same. If it is still what the record says, it
//!    is supervised, with the special token that ends it; if the template has changed it, it is context only, and counted.
//!
//! A turn that neither way finds is an error. The whole text is then encoded *once*, and tokens are supervised by the
//! characters they stand for: pieces that were tokenised apart and joined would have other ids.
//!
//! What a user's text cannot do is to begin or end a turn: special tokens that the template (or the tokenizer, as BOS or
//! EOS) uses for structure are encoded as plain characters where they occur inside a message. Other special tokens in a
//! message, say a marker that the model was trained on, are left as they are.

use std::ops::Range;

use crate::text::{ChatTemplate, Encoded, Message, TemplateInputs, Tokenizer};
use crate::{Error, Result};

/// A conversation as the model sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    pub text: String,
    /// Tokens and the bytes of `text` that they stand for.
    pub encoded: Encoded,
    /// For each token whether it is learned.
    pub supervised: Vec<bool>,
    /// How many assistant turns are context only since the template does not write them as the record has them.
    pub rewritten_turns: usize,
    /// How many messages hold a special token of the template, which became plain text.
    pub neutralised_messages: usize,
}

/// The token ids of `messages` with the prompt that asks the assistant to speak, for generation. Special tokens inside
/// messages are treated as in training.
pub fn encode_prompt(tokenizer: &Tokenizer, template: &ChatTemplate, messages: &[Message]) -> Result<Vec<u32>> {
    let inputs = &TemplateInputs::default();
    let view = View { template, messages, inputs, text: template.render(messages, true)?, generation: true };
    let (literal, _) = view.structure_in_messages(tokenizer)?;
    Ok(tokenizer.encode_literally(&view.text, &literal)?.ids)
}

/// Renders and encodes `messages`, and marks what the assistant wrote.
///
/// # Errors
/// The template fails or refuses the messages, or does not show an assistant turn in a recognisable way.
pub fn encode(tokenizer: &Tokenizer, template: &ChatTemplate, messages: &[Message]) -> Result<Conversation> {
    encode_with(tokenizer, template, messages, &TemplateInputs::default())
}

/// As [`encode`], with what the record gives the template beside its messages.
pub fn encode_with(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    messages: &[Message],
    inputs: &TemplateInputs,
) -> Result<Conversation> {
    let text = template.render_with(messages, inputs, false)?;
    let view = View { template, messages, inputs, text, generation: false };
    let (literal, neutralised_messages) = view.structure_in_messages(tokenizer)?;
    let encoded = tokenizer.encode_literally(&view.text, &literal)?;
    let mut supervised = vec![false; encoded.ids.len()];
    let mut rewritten_turns = 0;
    for (index, _) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant" && message.learned) {
        match view.turn(index)? {
            Turn::Exact(span) => {
                let tokens = without_tail(tokenizer, &view.text, &encoded, overlapping(&encoded, &span));
                let shows_nothing =
                    tokens.clone().all(|at| tokenizer.is_special(encoded.ids[at]) || blank(&view.text, &encoded, at));
                if shows_nothing && !messages[index].content.trim().is_empty() {
                    return Err(view.lost(index));
                }
                supervised[tokens].fill(true);
            }
            Turn::Placed(span) => {
                let mut tokens = overlapping(&encoded, &span);
                let end = (tokens.end..encoded.ids.len()).find(|&at| !blank(&view.text, &encoded, at));
                if let Some(end) = end.filter(|&at| tokenizer.is_special(encoded.ids[at])) {
                    tokens.end = end + 1;
                }
                supervised[tokens].fill(true);
            }
            Turn::Rewritten => rewritten_turns += 1,
        }
    }
    Ok(Conversation { text: view.text, encoded, supervised, rewritten_turns, neutralised_messages })
}

/// Where a turn stands in the text of the whole conversation.
enum Turn {
    /// From the end of the generation prompt to the end of all that the template writes for this turn.
    Exact(Range<usize>),
    /// The content alone.
    Placed(Range<usize>),
    /// The content is there, but changed.
    Rewritten,
}

struct View<'a> {
    template: &'a ChatTemplate,
    messages: &'a [Message],
    inputs: &'a TemplateInputs,
    /// All messages, rendered.
    text: String,
    /// Whether `text` ends with the generation prompt.
    generation: bool,
}

impl View<'_> {
    fn turn(&self, index: usize) -> Result<Turn> {
        if let Some(span) = self.between_prefixes(index) {
            return Ok(Turn::Exact(span));
        }
        let span = self.content(index).ok_or_else(|| self.lost(index))?;
        let intact = self.text[span.clone()].trim() == self.messages[index].content.trim();
        Ok(if intact { Turn::Placed(span) } else { Turn::Rewritten })
    }

    fn between_prefixes(&self, index: usize) -> Option<Range<usize>> {
        // A template may refuse the shorter conversation; then this way is closed, which is no error.
        let before = self.template.render_with(&self.messages[..index], self.inputs, true).ok()?;
        let end = if index + 1 == self.messages.len() {
            self.text.len()
        } else {
            let through = self.template.render_with(&self.messages[..=index], self.inputs, false).ok()?;
            self.text.starts_with(&through).then_some(through.len())?
        };
        (self.text.starts_with(&before) && before.len() <= end).then_some(before.len()..end)
    }

    /// Where the content of message `index` stands, if replacing it changes this one place.
    fn content(&self, index: usize) -> Option<Range<usize>> {
        let mut stand_in = "graftling".to_string();
        while self.messages.iter().any(|message| message.content.contains(&stand_in)) {
            stand_in += "q";
        }
        let mut messages = self.messages.to_vec();
        messages[index].content.clone_from(&stand_in);
        let replaced = self.template.render_with(&messages, self.inputs, self.generation).ok()?;
        let (before, after) = replaced.split_once(&stand_in)?;
        let fits = !after.contains(&stand_in)
            && before.len() + after.len() <= self.text.len()
            && self.text.starts_with(before)
            && self.text.ends_with(after);
        fits.then(|| before.len()..self.text.len() - after.len())
    }

    /// Where the template's own special tokens stand inside messages, and in how many messages.
    fn structure_in_messages(&self, tokenizer: &Tokenizer) -> Result<(Vec<Range<usize>>, usize)> {
        let special = tokenizer.special_tokens();
        let holds_special = |message: &Message| special.iter().any(|(_, text)| message.content.contains(text.as_str()));
        if !self.messages.iter().any(holds_special) {
            return Ok((Vec::new(), 0));
        }
        // What the template writes around empty messages is its structure.
        let mut empty = self.messages.to_vec();
        for message in &mut empty {
            if holds_special(message) {
                message.content = "graftling".to_string();
            }
        }
        let bare = self.template.render_with(&empty, self.inputs, self.generation)?;
        let mut structure = tokenizer.encode(&bare, false)?;
        structure.retain(|&id| tokenizer.is_special(id));
        structure.extend(tokenizer.bos_token_id().iter().chain(tokenizer.eos_token_ids()));
        let mut literal = Vec::new();
        for (index, message) in self.messages.iter().enumerate().filter(|(_, message)| holds_special(message)) {
            let forged = special.iter().find(|(id, text)| structure.contains(id) && message.content.contains(text.as_str()));
            if let Some((_, token)) = forged {
                literal.push(self.content(index).ok_or_else(|| {
                    Error::bad_input(
                        format!("messages[{index}]"),
                        format!(
                            "the content holds `{token}`, which the chat template uses to mark turns, and the template does \
                                 not show where the content ends"
                        ),
                        "remove or rewrite this token in the message",
                    )
                })?);
            }
        }
        let count = literal.len();
        Ok((literal, count))
    }

    fn lost(&self, index: usize) -> Error {
        // Each way that was tried takes a failing template for a closed way; one that was stopped fails in all of them.
        if let Some(stopped) = self.template.stopped() {
            return stopped;
        }
        Error::bad_input(
            format!("messages[{index}]"),
            format!(
                "the chat template ({}) does not show this assistant turn in a way that can be followed",
                self.template.origin()
            ),
            "write the record as {\"prompt\", \"completion\"} or {\"text\"}, or split the conversation so that it ends with this turn",
        )
    }
}

/// The tokens that stand for at least one byte of `span`; for an empty span, none, at the right place. Tokens come in the
/// order of the text.
fn overlapping(encoded: &Encoded, span: &Range<usize>) -> Range<usize> {
    let first = encoded.ranges.iter().position(|range| range.end > span.start).unwrap_or(encoded.ranges.len());
    let count = encoded.ranges[first..].iter().take_while(|range| range.start < span.end).count();
    first..first + count
}

/// What follows the token that ends a turn is never generated: white space after the last special token is dropped.
fn without_tail(tokenizer: &Tokenizer, text: &str, encoded: &Encoded, tokens: Range<usize>) -> Range<usize> {
    let last = tokens.clone().rev().find(|&at| tokenizer.is_special(encoded.ids[at]));
    match last {
        Some(last) if (last + 1..tokens.end).all(|at| blank(text, encoded, at)) => tokens.start..last + 1,
        _ => tokens,
    }
}

fn blank(text: &str, encoded: &Encoded, at: usize) -> bool {
    text.get(encoded.ranges[at].clone()).is_some_and(|piece| piece.trim().is_empty())
}
