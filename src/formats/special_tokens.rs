//! What the files beside `tokenizer.json` say about tokens: which have a role (`bos_token`, `eos_token`, ...), and which are
//! to be found whole in a text although `tokenizer.json` does not list them among its added tokens.
//!
//! Behaviour matched: `PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__` of transformers 5. There
//! `added_tokens_decoder` of `tokenizer_config.json` has the last word; where it is missing, the older files
//! `special_tokens_map.json` and `added_tokens.json` are read.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::AddedTokenSource;
use super::hugging_face::optional_json;
use crate::{Error, Result};

/// Roles that every tokenizer may give to a token.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What the files of one folder say.
#[derive(Debug, Default)]
pub(super) struct SpecialTokens {
    /// Role and token, in the order of the files.
    pub named: Vec<(String, String)>,
    /// Tokens to add to those of `tokenizer.json`, in this order.
    pub added: Vec<AddedTokenSource>,
}

impl SpecialTokens {
    /// The text of the token with this role.
    pub fn role(&self, role: &str) -> Option<String> {
        self.named.iter().find(|(name, _)| name == role).map(|(_, token)| token.clone())
    }
}

/// Reads the files of `folder`; `tokenizer_config` is the content of its `tokenizer_config.json`.
///
/// # Errors
/// [`Error::BadInput`] naming file and key if one of the files is not JSON, or a token is neither a text nor an object with
/// `content`.
pub(super) fn read(folder: &Path, tokenizer_config: &Value) -> Result<SpecialTokens> {
    let place = folder.join("tokenizer_config.json").display().to_string();
    let mut named: BTreeMap<String, Token> = BTreeMap::new();
    let mut extra: Vec<Token> = Vec::new();
    let empty = Map::new();
    let config = tokenizer_config.as_object().unwrap_or(&empty);
    let of_config = Roles { place: &place, map: config };
    of_config.roles(&mut named, &mut extra)?;

    let mut by_id: BTreeMap<u64, Token> = BTreeMap::new();
    if let Some(decoder) = config.get("added_tokens_decoder").filter(|decoder| !decoder.is_null()) {
        let wrong = || of_config.wrong("added_tokens_decoder", "is not an object of token ids");
        for (id, token) in decoder.as_object().ok_or_else(wrong)? {
            let token = Token::read(token).ok_or_else(|| of_config.wrong(&format!("added_tokens_decoder.{id}"), NO_TOKEN))?;
            by_id.insert(id.parse().map_err(|_| wrong())?, token);
        }
    } else {
        let path = folder.join("special_tokens_map.json");
        if let Some(Value::Object(map)) = optional_json(&path)? {
            let place = path.display().to_string();
            Roles { place: &place, map: &map }.roles(&mut named, &mut extra)?;
        }
        let path = folder.join("added_tokens.json");
        if let Some(Value::Object(map)) = optional_json(&path)? {
            let place = path.display().to_string();
            for (content, id) in &map {
                let wrong = || Roles { place: &place, map: &map }.wrong(content, "is not a token id");
                let special = named.values().chain(&extra).any(|token| token.content == *content);
                by_id.insert(id.as_u64().ok_or_else(wrong)?, Token { special, ..Token::new(content) });
            }
        }
    }

    // The usual roles first, as tokens that no vocabulary holds get their ids in this order.
    let mut named: Vec<(String, Token)> = named.into_iter().collect();
    named.sort_by_key(|(role, _)| ROLES.iter().position(|known| known == role).unwrap_or(ROLES.len()));
    let mut added: Vec<AddedTokenSource> = by_id.into_values().map(|token| token.source(false)).collect();
    for token in &mut added {
        // What has a role is special, whatever the list says.
        token.special |= named.iter().any(|(_, named)| named.content == token.content);
    }
    for token in named.iter().map(|(_, token)| token).chain(&extra) {
        if !added.iter().any(|other| other.content == token.content) {
            added.push(Token { special: true, ..token.clone() }.source(true));
        }
    }
    added.retain(|token| !token.content.is_empty());
    Ok(SpecialTokens { named: named.into_iter().map(|(role, token)| (role, token.content)).collect(), added })
}

const NO_TOKEN: &str = "is neither a text nor an object with `content`";

/// The keys of one file that give tokens a role.
struct Roles<'a> {
    place: &'a str,
    map: &'a Map<String, Value>,
}

impl Roles<'_> {
    fn roles(&self, named: &mut BTreeMap<String, Token>, extra: &mut Vec<Token>) -> Result<()> {
        for (key, value) in self.map {
            // Names that a model has beyond the usual ones (`image_token`) count where they are plain texts.
            if ROLES.contains(&key.as_str()) && !value.is_null() {
                named.insert(key.clone(), Token::read(value).ok_or_else(|| self.wrong(key, NO_TOKEN))?);
            } else if key.ends_with("_token") && value.is_string() {
                named.extend(Token::read(value).map(|token| (key.clone(), token)));
            }
        }
        // The second is the older name of the first.
        let given =
            |key: &str| self.map.get(key).filter(|value| !matches!(value, Value::Null)).map(|value| (key.to_owned(), value));
        let full = |value: &Value| value.as_array().is_none_or(|list| !list.is_empty());
        let list = given("extra_special_tokens").filter(|(_, value)| full(value)).or_else(|| given("additional_special_tokens"));
        match list {
            None => {}
            Some((key, Value::Array(tokens))) => {
                // A later file replaces the list of an earlier one.
                extra.clear();
                for (index, token) in tokens.iter().enumerate() {
                    extra.push(Token::read(token).ok_or_else(|| self.wrong(&format!("{key}[{index}]"), NO_TOKEN))?);
                }
            }
            Some((key, Value::Object(tokens))) => {
                for (name, token) in tokens {
                    let token = Token::read(token).ok_or_else(|| self.wrong(&format!("{key}.{name}"), NO_TOKEN))?;
                    named.insert(name.clone(), token);
                }
            }
            Some((key, _)) => return Err(self.wrong(&key, "is neither a list nor an object of tokens")),
        }
        Ok(())
    }

    fn wrong(&self, key: &str, problem: &str) -> Error {
        Error::bad_input(format!("{}: key `{key}`", self.place), problem, "Correct the file, or download it again.")
    }
}

/// A token as one of the files describes it.
#[derive(Clone, Debug)]
struct Token {
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    /// `None`: as it is usual, which is not for special tokens.
    normalized: Option<bool>,
    special: bool,
}

impl Token {
    fn new(content: &str) -> Self {
        let content = content.to_owned();
        Self { content, single_word: false, lstrip: false, rstrip: false, normalized: None, special: false }
    }

    /// A text, or an object with `content` and flags.
    fn read(value: &Value) -> Option<Self> {
        if let Some(content) = value.as_str() {
            return Some(Self { special: true, ..Self::new(content) });
        }
        let flag = |key: &str| value.get(key).and_then(Value::as_bool);
        Some(Self {
            single_word: flag("single_word").unwrap_or(false),
            lstrip: flag("lstrip").unwrap_or(false),
            rstrip: flag("rstrip").unwrap_or(false),
            normalized: flag("normalized"),
            special: flag("special").unwrap_or(false),
            ..Self::new(value.get("content")?.as_str()?)
        })
    }

    fn source(self, fallback: bool) -> AddedTokenSource {
        let Self { content, single_word, lstrip, rstrip, normalized, special } = self;
        let normalized = normalized.unwrap_or(!special);
        AddedTokenSource { content, single_word, lstrip, rstrip, normalized, special, fallback }
    }
}
