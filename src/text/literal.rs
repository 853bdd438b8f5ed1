//! Text in which what looks like a special token stays text.
//!
//! A message may hold `<|im_end|>` as characters, beside the `<|im_end|>` that the chat template writes. A tokenizer cannot
//! tell them apart: its special tokens are found wherever their text stands. So a twin of it is made whose special tokens are
//! written with one private character each, and the marks of the template are rewritten so. The text is still encoded as one,
//! and what the tokenizer does at its beginning, between words and around special tokens stays as it is.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use tokenizers::{AddedToken, Model};

use super::Encoded;
use crate::{Error, Result};

/// The private characters: a plane of Unicode that text does not use, and another for a text that does.
const PLANES: [u32; 2] = [0x10_0000, 0xF_0000];
/// Characters of a plane, without the two that are no characters.
const PLANE: u32 = 0xFFFD;

/// A tokenizer to which the text of its special tokens is text.
pub(super) struct Literal {
    tokenizer: Arc<tokenizers::Tokenizer>,
    /// The original id of each added token.
    original: HashMap<u32, u32>,
    /// How the special token with an id is written here.
    alias: HashMap<u32, char>,
    plane: u32,
}

impl Literal {
    /// A plane of private characters that `text` does not use.
    pub fn plane_for(text: &str) -> Option<u32> {
        PLANES.into_iter().find(|&plane| !uses(text, plane))
    }

    /// The twin of `tokenizer`, whose tokens `special` are to be characters of `plane`; `None` if there are too many of them.
    pub fn of(tokenizer: &tokenizers::Tokenizer, special: &HashSet<u32>, plane: u32) -> Option<Self> {
        let mut twin = tokenizers::Tokenizer::new(tokenizer.get_model().clone());
        twin.with_normalizer(tokenizer.get_normalizer().cloned());
        twin.with_pre_tokenizer(tokenizer.get_pre_tokenizer().cloned());
        let mut added: Vec<(u32, AddedToken)> = tokenizer.get_added_tokens_decoder().into_iter().collect();
        added.sort_by_key(|(id, _)| *id);
        let mut characters = (0..PLANE).filter_map(|at| char::from_u32(plane + at));
        // New tokens are numbered from the size of the vocabulary on, even where its ids have gaps and go further.
        let largest = tokenizer.get_vocab(false).into_values().max().unwrap_or(0) as usize;
        let gaps = (largest + 1).saturating_sub(tokenizer.get_vocab_size(false));
        let fill: Vec<_> = characters.by_ref().take(gaps).map(|one| AddedToken::from(one.to_string(), true)).collect();
        twin.add_tokens(&fill);
        let (mut alias, mut written) = (HashMap::new(), Vec::new());
        for (id, mut token) in added {
            if special.contains(&id) {
                let character = characters.next()?;
                alias.insert(id, character);
                token.content = character.to_string();
            }
            written.push((id, token));
        }
        twin.add_tokens(&written.iter().map(|(_, token)| token.clone()).collect::<Vec<_>>());
        let mut original = HashMap::new();
        for (id, token) in written {
            original.insert(twin.token_to_id(&token.content)?, id);
        }
        Some(Self { tokenizer: Arc::new(twin), original, alias, plane })
    }

    /// Whether this twin can encode `text`.
    pub fn suits(&self, text: &str) -> bool {
        !uses(text, self.plane)
    }

    /// Encodes `text`, in which the special tokens `marks` (id, and where their text stands) are the only ones.
    pub fn encode(
        &self,
        text: &str,
        marks: &[(u32, Range<usize>)],
        encode: impl Fn(&Arc<tokenizers::Tokenizer>, &str) -> Result<Encoded>,
    ) -> Result<Encoded> {
        // The rewritten text, and for each place where the lengths differ: where it ends there, and by how much more there is here.
        let (mut rewritten, mut shifts, mut from) = (String::with_capacity(text.len()), Vec::new(), 0);
        for (id, range) in marks {
            let Some(character) = self.alias.get(id) else {
                return Err(Error::failed(
                    "tokenizer",
                    "a special token has no place",
                    "this is a fault of graftling: please report it",
                ));
            };
            rewritten.push_str(&text[from..range.start]);
            let start = rewritten.len();
            rewritten.push(*character);
            shifts.push((start, rewritten.len(), range.clone()));
            from = range.end;
        }
        rewritten.push_str(&text[from..]);
        let place = |at: usize, end: bool| {
            let count = shifts.partition_point(|(_, to, _)| *to <= at);
            match shifts.get(count) {
                // Inside an alias: all of the mark.
                Some((start, _, range)) if at > *start => {
                    if end {
                        range.end
                    } else {
                        range.start
                    }
                }
                _ => match count.checked_sub(1).map(|last| &shifts[last]) {
                    Some((_, to, range)) => at - to + range.end,
                    None => at,
                },
            }
        };
        let encoded = encode(&self.tokenizer, &rewritten)?;
        let mut joined = Encoded::default();
        for (id, range) in encoded.ids.into_iter().zip(encoded.ranges) {
            let range = place(range.start, false)..place(range.end, true);
            let ids = match self.original.get(&id) {
                Some(original) => vec![*original],
                // The vocabulary itself has the mark as a word.
                None if self.alias.contains_key(&id) => self.in_pieces(id),
                None => vec![id],
            };
            joined.ranges.extend(ids.iter().map(|_| range.clone()));
            joined.ids.extend(ids);
        }
        Ok(joined)
    }

    /// The tokens of the text of special token `id`, cut so that it is none.
    fn in_pieces(&self, id: u32) -> Vec<u32> {
        let text = self.tokenizer.id_to_token(id).unwrap_or_default();
        let pieces = |cuts: &[usize]| -> Vec<u32> {
            let ends = cuts.iter().copied().chain([text.len()]);
            let stretches = [0].into_iter().chain(cuts.iter().copied()).zip(ends).map(|(from, to)| &text[from..to]);
            let tokens = stretches.flat_map(|stretch| self.tokenizer.get_model().tokenize(stretch).unwrap_or_default());
            tokens.map(|token| token.id).collect()
        };
        let cuts: Vec<usize> = text.char_indices().skip(1).map(|(at, _)| at).collect();
        let two = pieces(&cuts[..cuts.len().min(1)]);
        if two.iter().any(|id| self.alias.contains_key(id)) { pieces(&cuts) } else { two }
    }
}

fn uses(text: &str, plane: u32) -> bool {
    text.chars().any(|character| (plane..plane + 0x1_0000).contains(&(character as u32)))
}
