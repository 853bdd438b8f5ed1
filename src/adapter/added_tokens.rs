//! The tokens that an adapter adds to its model's tokenizer: the tokenizer that is kept beside it, as transformers keeps one beside a model.

use std::path::Path;

use serde_json::{Value, json};

use super::beside::beside;
use crate::formats::{AddedTokenSource, ModelFiles, TextSource, TokenizerSource};
use crate::text::Tokenizer;
use crate::{Error, Result, files};

/// The tokenizer itself, and what transformers reads with it.
pub const FILES: [&str; 2] = ["tokenizer.json", "tokenizer_config.json"];

/// The added tokens of the tokenizer beside an adapter, with their ids, from the lowest on. A run's checkpoint has it in the run's folder. No
/// file gives no tokens.
///
/// # Errors
/// Bad input: the file cannot be read, or is no tokenizer.
pub fn all(folder: &Path) -> Result<Vec<(u32, AddedTokenSource)>> {
    let Some(path) = beside(folder, FILES[0]) else { return Ok(Vec::new()) };
    let bad = |problem: String| {
        Error::bad_input(
            path.display(),
            problem,
            "copy the adapter's folder again, or remove this file if the adapter adds no tokens",
        )
    };
    let text = files::read_to_string(&path, files::TOKENIZER).map_err(|error| bad(format!("cannot be read: {error}")))?;
    let json: Value = serde_json::from_str(&text).map_err(|error| bad(format!("is not valid JSON: {error}")))?;
    let mut tokens = Vec::new();
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        let flag = |key: &str| token[key] == Value::Bool(true);
        let id = token["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        let (Some(id), Some(content)) = (id, token["content"].as_str()) else {
            return Err(bad("has an added token without id and content".to_owned()));
        };
        let source = AddedTokenSource {
            single_word: flag("single_word"),
            lstrip: flag("lstrip"),
            rstrip: flag("rstrip"),
            normalized: flag("normalized"),
            ..AddedTokenSource::new(content, flag("special"))
        };
        tokens.push((id, source));
    }
    tokens.sort_by_key(|(id, _)| *id);
    Ok(tokens)
}

/// What is said of text, the tokenizer of it, and the tokens that were added, with their ids.
pub type Extended = (TextSource, Tokenizer, Vec<(u32, AddedTokenSource)>);

/// What is said of text, with these tokens behind the others.
///
/// # Errors
/// Bad input: the tokenizer cannot take them.
pub fn extended(text: &TextSource, tokens: &[AddedTokenSource]) -> Result<Extended> {
    let text = text.clone().extended(tokens);
    let tokenizer = Tokenizer::from_source(&text)?;
    let mut added = Vec::with_capacity(tokens.len());
    for token in tokens {
        let id = tokenizer.token_id(&token.content).ok_or_else(|| {
            let problem = format!("does not take the token {}", token.content);
            Error::bad_input(tokenizer.origin(), problem, "choose another text for the token")
        })?;
        added.push((id, token.clone()));
    }
    Ok((text, tokenizer, added))
}

/// What is said of text, with the tokens of the tokenizers beside these adapters that `known`, the tokenizer of `text`, lacks, those of each behind
/// the ones of the adapters before it; `None` without such.
///
/// # Errors
/// Bad input: a file cannot be read, or gives a token another id than it has here.
pub fn extended_by_all<'p>(
    folders: impl IntoIterator<Item = &'p Path>,
    text: &TextSource,
    known: &Tokenizer,
) -> Result<Option<Extended>> {
    let mut all: Option<Extended> = None;
    for folder in folders {
        let (text, known) = all.as_ref().map_or((text, known), |(text, tokenizer, _)| (text, tokenizer));
        if let Some((text, tokenizer, more)) = extended_by(folder, text, known)? {
            let mut added = all.map_or_else(Vec::new, |(.., added)| added);
            added.extend(more);
            all = Some((text, tokenizer, added));
        }
    }
    Ok(all)
}

/// The same of one adapter.
fn extended_by(folder: &Path, text: &TextSource, known: &Tokenizer) -> Result<Option<Extended>> {
    let mut tokens = all(folder)?;
    tokens.retain(|(_, token)| !token.content.is_empty() && known.token_id(&token.content).is_none());
    if tokens.is_empty() {
        return Ok(None);
    }
    let sources: Vec<AddedTokenSource> = tokens.iter().map(|(_, token)| token.clone()).collect();
    let found = extended(text, &sources)?;
    for ((id, token), (own, _)) in tokens.iter().zip(&found.2) {
        if id != own {
            let problem = format!("gives {} the id {id}, and behind the model's own tokens it would have {own}", token.content);
            let proposal = "use the adapter with the model that it was trained on";
            return Err(Error::bad_input(folder.join(FILES[0]).display(), problem, proposal));
        }
    }
    Ok(Some(found))
}

/// The files of a model's tokenizer with these tokens behind the others, in the order of [`FILES`]: the model's own files, with no more than
/// that changed; of a GGUF file they are made.
///
/// # Errors
/// Bad input: a file cannot be read, or the tokenizer cannot be put into words.
pub fn texts(files: &ModelFiles, tokenizer: &Tokenizer, tokens: &[(u32, AddedTokenSource)]) -> Result<[String; 2]> {
    let entry = |id: Option<u32>, token: &AddedTokenSource| {
        let mut entry = json!({
            "content": token.content, "single_word": token.single_word, "lstrip": token.lstrip, "rstrip": token.rstrip,
            "normalized": token.normalized, "special": token.special,
        });
        if let Some(id) = id {
            entry["id"] = json!(id);
        }
        entry
    };
    let (json, mut config) = match &files.text.tokenizer {
        TokenizerSource::Json(path) => {
            let mut json = read_json(path)?;
            if let Some(added) = json["added_tokens"].as_array_mut() {
                added.extend(tokens.iter().map(|(id, token)| entry(Some(*id), token)));
            } else {
                json["added_tokens"] = tokens.iter().map(|(id, token)| entry(Some(*id), token)).collect();
            }
            let other = path.with_file_name(FILES[1]);
            let config = if other.is_file() { read_json(&other)? } else { made_config(files) };
            (json, config)
        }
        // The tokens are in what is made of the file already.
        TokenizerSource::Gguf(_) => (made_json(tokenizer)?, made_config(files)),
    };
    // Some versions of transformers keep them there too; a file without is left so.
    if let Some(decoder) = config.get_mut("added_tokens_decoder").and_then(Value::as_object_mut) {
        decoder.extend(tokens.iter().map(|(id, token)| (id.to_string(), entry(None, token))));
    }
    Ok([json, config].map(|value| format!("{value:#}\n")))
}

fn read_json(path: &Path) -> Result<Value> {
    let bad = |problem: String| Error::bad_input(path.display(), problem, "download the file again");
    let text = files::read_to_string(path, files::TOKENIZER).map_err(|error| bad(format!("cannot be read: {error}")))?;
    let json: Value = serde_json::from_str(&text).map_err(|error| bad(format!("is not valid JSON: {error}")))?;
    if json.is_object() { Ok(json) } else { Err(bad("is no JSON object".to_owned())) }
}

/// `tokenizer.json` of a tokenizer that has no such file.
///
/// # Errors
/// Bad input: it cannot be put into words.
pub fn made_json(tokenizer: &Tokenizer) -> Result<Value> {
    let mut json = tokenizer.to_json()?;
    // Elsewhere in a GGUF file, a part of the tokenizer in a folder.
    if tokenizer.adds_bos() == Some(true)
        && let Some(id) = tokenizer.bos_token_id()
        && let Some(token) = tokenizer.token(id)
    {
        let special = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
        let sequence = |id: &str, kind: u32| json!({ "Sequence": { "id": id, "type_id": kind } });
        let second = json!({ "SpecialToken": { "id": token, "type_id": 1 } });
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [special, sequence("A", 0)],
            "pair": [special, sequence("A", 0), second, sequence("B", 1)],
            "special_tokens": { token.clone(): { "id": token, "ids": [id], "tokens": [token] } },
        });
    }
    Ok(json)
}

/// `tokenizer_config.json` of a model that has no such file.
pub fn made_config(files: &ModelFiles) -> Value {
    let text = &files.text;
    let mut settings = json!({ "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false });
    for (role, token) in &text.named_tokens {
        settings[role] = json!(token);
    }
    settings["model_max_length"] = json!(files.config.context());
    if let Some(template) = &text.chat_template {
        settings["chat_template"] = json!(template);
    }
    settings
}
