//! Where a generation ends.

use std::path::Path;

use crate::Result;
use crate::adapter::end_of_turn::{self, EndOfTurn};
use crate::data::conversation::turn_end;
use crate::text::{ChatTemplate, Tokenizer};

/// The tokens that end a generation: those that the model's files name; for an `adapter`, those that ended the turns it has
/// learned; and in a conversation (`chat`) also the mark that the template writes after an assistant's turn, and the marks that
/// end a turn in any model that has them, as in llama.cpp.
///
/// # Errors
/// The adapter's file cannot be read.
pub fn end_tokens(
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    adapter: Option<&Path>,
    chat: bool,
) -> Result<Vec<u32>> {
    let learned = adapter.map(end_of_turn::read).transpose()?;
    Ok(ends(tokenizer, template, learned.as_deref(), chat))
}

/// Where answers end, in a conversation and in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    pub in_chat: Vec<u32>,
    pub in_text: Vec<u32>,
}

impl Ends {
    /// As [`end_tokens`]; `learned`: the ends of turns that an adapter has learned, if there is one.
    pub fn new(tokenizer: &Tokenizer, template: Option<&ChatTemplate>, learned: Option<&[EndOfTurn]>) -> Self {
        let [in_chat, in_text] = [true, false].map(|chat| ends(tokenizer, template, learned, chat));
        Self { in_chat, in_text }
    }
}

fn ends(tokenizer: &Tokenizer, template: Option<&ChatTemplate>, learned: Option<&[EndOfTurn]>, chat: bool) -> Vec<u32> {
    let mut ends = tokenizer.eos_token_ids().to_vec();
    // A file from an adapter of another model names other tokens.
    let of_this = |end: &&EndOfTurn| tokenizer.token(end.id).as_ref() == Some(&end.token);
    ends.extend(learned.into_iter().flatten().filter(of_this).map(|end| end.id));
    if chat || learned.is_some() {
        ends.extend(tokenizer.end_marks());
    }
    if chat {
        ends.extend(template.and_then(|template| turn_end(tokenizer, template)));
    }
    let mut seen = std::collections::HashSet::new();
    ends.retain(|id| seen.insert(*id));
    ends
}
