//! `/api/tokens`: a text or a record as the model reads it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Answered, Method, Route, host};
use crate::data::{Example, LoneRecord, encode_record};
use crate::studio::Studio;
use crate::text::Tokenizer;
use crate::train::options::TrainOptions;
use crate::{Error, Result};

pub(super) fn routes() -> Vec<Route> {
    vec![host(Method::Post, "/api/tokens", tokens)]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Plain text, as `generate --prompt` reads it.
    text: Option<String>,
    /// A record, as a line of a data file has it.
    record: Option<Map<String, Value>>,
    /// As in `train`.
    max_length: Option<usize>,
}

/// The tokens of a text.
#[derive(Serialize)]
pub struct Tokens {
    tokens: Vec<Token>,
    /// How many of the tokens, all of them at the end, a row of `max_length` has no room for.
    cut: usize,
    /// `text`, `messages`, `prompt/completion`, `instruction` or `input_ids`; `plain` where no record was given.
    kind: &'static str,
    /// Whether the first token is the one that begins texts.
    bos: bool,
    /// What the model would not learn from the record, in words.
    notes: Vec<&'static str>,
}

#[derive(Serialize)]
struct Token {
    id: u32,
    /// Tokens that hold a part of a character each have U+FFFD.
    text: String,
    special: bool,
    /// Whether it is learned.
    supervised: bool,
}

fn tokens(studio: &Arc<Studio>, asked: Asked) -> Answered<Tokens> {
    let opened = studio.opened()?;
    let (model, max_length) = (&opened.model, asked.max_length.unwrap_or(TrainOptions::MAX_LENGTH));
    let encoded = match (asked.text, asked.record) {
        (Some(text), None) => {
            let ids = model.tokenizer.encode(&text, true)?;
            let example = Example { labels: vec![None; ids.len()], input_ids: ids, line: 1 };
            LoneRecord { example, kind: "plain", notes: Vec::new() }
        }
        (None, Some(record)) => {
            let json = Value::Object(record).to_string();
            encode_record(&json, &model.tokenizer, model.template.as_ref(), model.tokens)?
        }
        _ => {
            let proposal = "give {\"text\": \"...\"}, or {\"record\": {...}} with a record as data files have it";
            return Err(Error::bad_input("request", "asks for neither or both of text and record", proposal).into());
        }
    };
    let LoneRecord { example: Example { input_ids, labels, .. }, kind, notes } = encoded;
    let token = |(at, (&id, label)): (usize, (&u32, &Option<u32>))| -> Result<Token> {
        let special = model.tokenizer.is_special(id);
        // The first token is predicted by nothing.
        Ok(Token { id, text: text_of(&model.tokenizer, id)?, special, supervised: at > 0 && label.is_some() })
    };
    let tokens = input_ids.iter().zip(&labels).enumerate().map(token).collect::<Result<Vec<_>>>()?;
    let bos = model.tokenizer.bos_token_id().is_some_and(|bos| input_ids.first() == Some(&bos));
    Ok(Tokens { cut: tokens.len().saturating_sub(max_length), tokens, kind, bos, notes })
}

/// What one token stands for, wherever it stands.
fn text_of(tokenizer: &Tokenizer, id: u32) -> Result<String> {
    tokenizer.decode(&[id], false)
}
