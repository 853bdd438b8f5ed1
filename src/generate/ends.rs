//! Where a generation ends.

use std::path::Path;

use crate::Result;
use crate::adapter::end_of_turn;
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
    let mut ends = tokenizer.eos_token_ids().to_vec();
    if let Some(folder) = adapter {
        let learned = end_of_turn::read(folder)?;
        // A file from an adapter of another model names other tokens.
        ends.extend(learned.into_iter().filter(|end| tokenizer.token(end.id).as_ref() == Some(&end.token)).map(|end| end.id));
    }
    if chat || adapter.is_some() {
        ends.extend(tokenizer.end_marks());
    }
    if chat {
        ends.extend(template.and_then(|template| turn_end(tokenizer, template)));
    }
    let mut seen = std::collections::HashSet::new();
    ends.retain(|id| seen.insert(*id));
    Ok(ends)
}
