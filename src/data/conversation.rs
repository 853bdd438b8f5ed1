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
//! A turn that neither way finds is an error. Where there are many turns, most are found by what was found for a few (`repeated`).
//! The whole text is then encoded *once*, and tokens are supervised by the
//! characters they stand for: pieces that were tokenised apart and joined would have other ids.
//!
//! A turn ends with the special token that the template writes after it, be it with the turn or only when the next one begins.
//! That token is supervised; a turn without one is counted, as the model cannot learn from it to stop.
//!
//! What a message cannot do is to begin or end a turn: what looks like a special token in it is encoded as plain characters
//! (`marked`).

use std::cell::Cell;
use std::ops::Range;

use super::marked::{Marked, Unmarked};
use super::repeated;
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
    /// How many messages hold the name of a special token, which became plain text.
    pub neutralised_messages: usize,
    /// The special tokens that end learned turns, each once.
    pub turn_ends: Vec<u32>,
    /// How many learned turns end with none.
    pub unended_turns: usize,
}

/// The token ids of `messages` with the prompt that asks the assistant to speak, for generation. Special tokens inside
/// messages are treated as in training.
pub fn encode_prompt(tokenizer: &Tokenizer, template: &ChatTemplate, messages: &[Message]) -> Result<Vec<u32>> {
    let inputs = TemplateInputs::default();
    let view = View::new(tokenizer, template, messages, &inputs, true)?;
    Ok(tokenizer.encode_literally(&view.text, &view.literal)?.ids)
}

/// The special token that the template writes after what the assistant says, if it writes one.
pub fn turn_end(tokenizer: &Tokenizer, template: &ChatTemplate) -> Option<u32> {
    let messages = [Message::new("user", "graftling"), Message::new("assistant", "graftlingq")];
    let inputs = TemplateInputs::default();
    let view = View::new(tokenizer, template, &messages, &inputs, false).ok()?;
    let encoded = tokenizer.encode_with_ranges(&view.text, false).ok()?;
    let end = view.text.rfind("graftlingq")? + "graftlingq".len();
    let after = overlapping(&encoded, &(end..view.text.len()));
    let next = after.into_iter().find(|&at| !blank(&view.text, &encoded, at))?;
    tokenizer.is_special(encoded.ids[next]).then(|| encoded.ids[next])
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
    let view = View::new(tokenizer, template, messages, inputs, false)?;
    let encoded = tokenizer.encode_literally(&view.text, &view.literal)?;
    let special = |at: usize| tokenizer.is_special(encoded.ids[at]);
    let next_mark = |from: usize| {
        let next = (from..encoded.ids.len()).find(|&at| !blank(&view.text, &encoded, at));
        next.filter(|&at| special(at))
    };
    // The tokens of each learned turn. Those found exactly end as the template ends them at this place.
    let (mut exact, mut placed, mut rewritten_turns) = (Vec::new(), Vec::new(), 0);
    let learned: Vec<usize> =
        (0..messages.len()).filter(|&index| messages[index].role == "assistant" && messages[index].learned).collect();
    for (index, turn) in learned.iter().copied().zip(view.turns(&learned)?) {
        match turn {
            Turn::Exact(span) => {
                let tokens = without_tail(tokenizer, &view.text, &encoded, overlapping(&encoded, &span));
                let shows_nothing = tokens.clone().all(|at| special(at) || blank(&view.text, &encoded, at));
                if shows_nothing && !messages[index].content.trim().is_empty() {
                    return Err(view.lost(index));
                }
                exact.push(tokens);
            }
            Turn::Placed(span) => {
                let mut tokens = overlapping(&encoded, &span);
                tokens.end = next_mark(tokens.end).map_or(tokens.end, |end| end + 1);
                placed.push(tokens);
            }
            Turn::Rewritten => rewritten_turns += 1,
        }
    }
    let end_of = |tokens: &Range<usize>| tokens.clone().next_back().filter(|&at| special(at)).map(|at| encoded.ids[at]);
    // Where the template ends a turn only when the next one begins, the next mark is the end if it is known as one.
    let mut ends: Vec<u32> = exact.iter().filter_map(end_of).collect();
    ends.extend(tokenizer.eos_token_ids().iter().chain(tokenizer.end_marks()));
    for tokens in exact.iter_mut().filter(|tokens| end_of(tokens).is_none()) {
        if let Some(end) = next_mark(tokens.end).filter(|&at| ends.contains(&encoded.ids[at])) {
            tokens.end = end + 1;
        }
    }
    let mut supervised = vec![false; encoded.ids.len()];
    let (mut turn_ends, mut unended_turns) = (Vec::new(), 0);
    for tokens in exact.into_iter().chain(placed) {
        match end_of(&tokens) {
            Some(end) if turn_ends.contains(&end) => {}
            Some(end) => turn_ends.push(end),
            None => unended_turns += 1,
        }
        supervised[tokens].fill(true);
    }
    let neutralised_messages = view.marked.count;
    Ok(Conversation { text: view.text, encoded, supervised, rewritten_turns, neutralised_messages, turn_ends, unended_turns })
}

/// Up to so many turns, each is looked for by itself.
const FEW: usize = 64;
/// Bytes of messages that may be rendered to find the turns of one conversation: seconds.
const MOST_RENDERED: usize = 1 << 30;
/// What a message costs besides its text, in such bytes.
const A_MESSAGE: usize = 512;

/// Where a turn stands in the text of the whole conversation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// From the end of the generation prompt to the end of all that the template writes for this turn.
    Exact(Range<usize>),
    /// The content alone.
    Placed(Range<usize>),
    /// The content is there, but changed.
    Rewritten,
}

pub(super) struct View<'a> {
    template: &'a ChatTemplate,
    pub messages: &'a [Message],
    pub marked: Marked,
    /// All messages, rendered.
    pub text: String,
    /// Where the text is not what it looks like: the names of special tokens inside messages.
    literal: Vec<Range<usize>>,
    /// Whether `text` ends with the generation prompt.
    pub generation: bool,
    /// Bytes that may still be rendered; `None` once they were not enough.
    left: Cell<Option<usize>>,
}

impl<'a> View<'a> {
    pub fn new(
        tokenizer: &Tokenizer,
        template: &'a ChatTemplate,
        messages: &'a [Message],
        inputs: &TemplateInputs,
        generation: bool,
    ) -> Result<Self> {
        let marked = Marked::of(messages, inputs, tokenizer);
        let Unmarked { text, literal } = marked.unmark(template.render_with(&marked.messages, &marked.inputs, generation)?);
        Ok(Self { template, messages, marked, text, literal, generation, left: Cell::new(Some(MOST_RENDERED)) })
    }

    /// What the template makes of `messages`, which are some of those with marks.
    ///
    /// # Errors
    /// The template refuses them, or too much has been rendered already.
    pub fn render(&self, messages: &[Message], generation: bool) -> Result<String> {
        let cost: usize = messages.iter().map(|message| A_MESSAGE + message.size()).sum();
        self.left.set(self.left.get().and_then(|left| left.checked_sub(cost)));
        if self.left.get().is_none() {
            return Err(self.too_long());
        }
        Ok(self.marked.unmark(self.template.render_with(messages, &self.marked.inputs, generation)?).text)
    }

    /// Where the turns of the messages `learned` stand.
    fn turns(&self, learned: &[usize]) -> Result<Vec<Turn>> {
        if learned.len() > FEW
            && let Some(turns) = repeated::turns(self, learned)?
        {
            return Ok(turns);
        }
        learned.iter().map(|&index| self.turn(index)).collect()
    }

    /// Where the turn of message `index` stands.
    ///
    /// # Errors
    /// It is not found.
    pub fn turn(&self, index: usize) -> Result<Turn> {
        if let Some(span) = self.between_prefixes(index) {
            return Ok(Turn::Exact(span));
        }
        let span = self.content(index).ok_or_else(|| self.lost(index))?;
        let intact = self.text[span.clone()].trim() == self.messages[index].content.trim();
        Ok(if intact { Turn::Placed(span) } else { Turn::Rewritten })
    }

    fn between_prefixes(&self, index: usize) -> Option<Range<usize>> {
        // A template may refuse the shorter conversation; then this way is closed, which is no error.
        let before = self.render(&self.marked.messages[..index], true).ok()?;
        let end = if index + 1 == self.messages.len() {
            self.text.len()
        } else {
            let through = self.render(&self.marked.messages[..=index], false).ok()?;
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
        let mut messages = self.marked.messages.clone();
        messages[index].content.clone_from(&stand_in);
        let replaced = self.render(&messages, self.generation).ok()?;
        let (before, after) = replaced.split_once(&stand_in)?;
        let fits = !after.contains(&stand_in)
            && before.len() + after.len() <= self.text.len()
            && self.text.starts_with(before)
            && self.text.ends_with(after);
        fits.then(|| before.len()..self.text.len() - after.len())
    }

    fn too_long(&self) -> Error {
        let problem = format!(
            "a conversation of {} messages and {} KiB is too long to find what the assistant wrote, since the chat template ({}) writes its \
             turns in many ways",
            self.messages.len(),
            self.messages.iter().map(Message::size).sum::<usize>() >> 10,
            self.template.origin()
        );
        Error::bad_input("messages", problem, "split the conversation into several records, of at most a thousand messages each")
    }

    fn lost(&self, index: usize) -> Error {
        // Each way that was tried takes a failing template for a closed way; one that was stopped fails in all of them.
        if let Some(stopped) = self.template.stopped() {
            return stopped;
        }
        if self.left.get().is_none() {
            return self.too_long();
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
    let first = encoded.ranges.partition_point(|range| range.end <= span.start);
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
