//! [`Tokenizer`]: text to token ids and back.

use std::collections::HashSet;
use std::fmt::Display;
use std::ops::Range;
use std::sync::OnceLock;

use super::decode_stream::DecodeStream;
use super::gguf_vocabulary::{self, Built};
use super::literal::Literal;
use super::marks;
use crate::caught::caught;
use crate::formats::{AddedTokenSource, TextSource, TokenizerSource};
use crate::{Error, Result};

/// The model's tokenizer. One instance serves any number of threads.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same tokenizer, but the text of a special token is plain text to it. Made when first needed.
    literal: OnceLock<Option<Literal>>,
    /// Where it comes from, for messages.
    origin: String,
    special: HashSet<u32>,
    special_tokens: Vec<(u32, String)>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    eos_token_ids: Vec<u32>,
    /// Whether BOS goes first; `None`: as the rules in tokenizer.json have it.
    add_bos: Option<bool>,
    vocab_size: usize,
    /// Ids that end a generation besides `eos_token_ids`: end marks by their names.
    end_marks: Vec<u32>,
    notes: Vec<String>,
}

/// Token ids, and for each the range of bytes of the text that it stands for.
///
/// A token that the tokenizer added (BOS) has the range `0..0`; the tokens of a character that was cut into several all
/// have the range of the whole character.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    pub ids: Vec<u32>,
    pub ranges: Vec<Range<usize>>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, or builds the tokenizer from GGUF metadata.
    ///
    /// # Errors
    /// The file is missing or not a tokenizer; the GGUF tokenizer is damaged or of an unsupported kind.
    pub fn from_source(source: &TextSource) -> Result<Self> {
        let mut notes = Vec::new();
        let (mut inner, add_bos, origin) = match &source.tokenizer {
            TokenizerSource::Json(path) => {
                let origin = path.display().to_string();
                let bytes = std::fs::read(path).map_err(|cause| {
                    let proposal =
                        "a model folder needs its tokenizer.json (not tokenizer.model); download it from the same place";
                    Error::bad_input(&origin, format!("cannot read the tokenizer: {cause}"), proposal)
                })?;
                let not_one = |cause: &dyn Display| {
                    Error::bad_input(&origin, format!("this is not a tokenizer: {cause}"), "download the file again")
                };
                let read = caught(|| tokenizers::Tokenizer::from_bytes(&bytes)).map_err(|panic| not_one(&panic))?;
                let mut inner = read.map_err(|cause| not_one(&cause))?;
                caught(|| add_tokens(&mut inner, &source.added_tokens)).map_err(|panic| not_one(&panic))?;
                (inner, source.add_bos, origin)
            }
            TokenizerSource::Gguf(gguf) => {
                let built = caught(|| gguf_vocabulary::build(gguf)).map_err(|panic| {
                    Error::bad_input("tokenizer.ggml.tokens", panic, "convert or download the GGUF file again")
                })?;
                let Built { tokenizer, add_bos, retyped } = built?;
                let add_bos = gguf.add_bos_token.or(source.add_bos).unwrap_or(add_bos);
                if !retyped.is_empty() {
                    notes.push(retyped_note(&retyped));
                }
                (tokenizer, Some(add_bos), "the tokenizer in the GGUF file".to_string())
            }
        };
        // Some files carry the truncation and padding of the run that wrote them. Lengths are decided here.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|cause| Error::bad_input(&origin, cause, "download the file again"))?;

        let id_of = |token: &Option<String>| token.as_deref().and_then(|token| inner.token_to_id(token));
        // The tokenizer's own files know its tokens better than the model's configuration.
        let bos_token_id = id_of(&source.bos_token).or(source.bos_token_id);
        let mut eos_token_ids = source.eos_token_ids.clone();
        let own_eos = id_of(&source.eos_token).or(match &source.tokenizer {
            TokenizerSource::Gguf(gguf) => gguf.eos_token_id,
            TokenizerSource::Json(_) => None,
        });
        // What training appends must also end a generation.
        eos_token_ids.extend(own_eos.filter(|id| !source.eos_token_ids.contains(id)));
        let eos_token_id = own_eos.or(eos_token_ids.first().copied());
        // Some files do not mark their end token as special; a token that text can give by merging never is.
        let ends = |id: &u32| bos_token_id == Some(*id) || eos_token_ids.contains(id);
        let added = inner.get_added_tokens_decoder();
        let special: HashSet<u32> = added.iter().filter(|(id, token)| token.special || ends(id)).map(|(id, _)| *id).collect();
        let vocab_size = match &source.tokenizer {
            TokenizerSource::Gguf(gguf) => gguf.tokens.len(),
            TokenizerSource::Json(_) => inner.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1),
        };
        if let Some(id) = bos_token_id.iter().chain(&eos_token_ids).find(|id| **id as usize >= vocab_size) {
            return Err(Error::bad_input(
                origin,
                format!("the BOS or EOS token has id {id}, but the vocabulary has {vocab_size} tokens"),
                "the tokenizer and the model's configuration do not belong together: download both again",
            ));
        }
        let mut special_tokens: Vec<_> = special.iter().filter_map(|&id| Some((id, inner.id_to_token(id)?))).collect();
        special_tokens.sort();
        let mut end_marks: Vec<u32> =
            special_tokens.iter().filter(|(_, token)| marks::ends_generation(token)).map(|(id, _)| *id).collect();
        end_marks.retain(|id| !eos_token_ids.contains(id));
        let literal = OnceLock::new();
        Ok(Self {
            inner,
            literal,
            origin,
            special,
            special_tokens,
            bos_token_id,
            eos_token_id,
            eos_token_ids,
            add_bos,
            vocab_size,
            end_marks,
            notes,
        })
    }

    /// The ids of `text`. With `add_special`, BOS is put first (and whatever else tokenizer.json says) where the model
    /// was trained so; text that comes from a chat template already contains it and is encoded without.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        Ok(self.encode_with_ranges(text, add_special)?.ids)
    }

    /// As [`Self::encode`], with the bytes that each token stands for.
    ///
    /// A text that begins with BOS itself gets no second one.
    pub fn encode_with_ranges(&self, text: &str, add_special: bool) -> Result<Encoded> {
        let mut encoded = self.encode_by(&self.inner, text, add_special)?;
        if !add_special {
            return Ok(encoded);
        }
        let added = |encoded: &Encoded, at: usize| encoded.ranges.get(at).is_some_and(|range| *range == (0..0));
        if let (Some(wanted), Some(bos)) = (self.add_bos, self.bos_token_id) {
            let first = encoded.ids.first() == Some(&bos);
            if wanted && !first {
                encoded.ids.insert(0, bos);
                encoded.ranges.insert(0, 0..0);
            } else if !wanted && first && added(&encoded, 0) {
                encoded.ids.remove(0);
                encoded.ranges.remove(0);
            }
        }
        if let [first, second, ..] = encoded.ids[..]
            && first == second
            && self.is_special(first)
            && added(&encoded, 0)
            && !added(&encoded, 1)
        {
            encoded.ids.remove(0);
            encoded.ranges.remove(0);
        }
        Ok(encoded)
    }

    /// As [`Self::encode_with_ranges`] without added tokens, but special tokens that stand inside one of the `literal`
    /// ranges of `text` are encoded as the plain characters they are written with.
    ///
    /// # Errors
    /// As [`Self::encode`]; the text has characters of both private planes of Unicode.
    pub fn encode_literally(&self, text: &str, literal: &[Range<usize>]) -> Result<Encoded> {
        let whole = self.encode_with_ranges(text, false)?;
        let inside = |range: &Range<usize>| literal.iter().any(|other| range.start < other.end && other.start < range.end);
        let special = || whole.ids.iter().zip(&whole.ranges).filter(|(id, _)| self.is_special(**id));
        if !special().any(|(_, range)| inside(range)) {
            return Ok(whole);
        }
        // A mark may take the white space around it; what is rewritten is its own text.
        let mut marks = Vec::new();
        for (&id, range) in special().filter(|(_, range)| !inside(range)) {
            let content = self.token(id).unwrap_or_default();
            if let Some(at) = text[range.clone()].find(&content) {
                marks.push((id, range.start + at..range.start + at + content.len()));
            }
        }
        let make = || Literal::of(&self.inner, |id| self.is_special(id), text);
        let other;
        let twin = match self.literal.get_or_init(make) {
            Some(twin) if twin.suits(text) => Some(twin),
            _ => {
                other = make();
                other.as_ref()
            }
        };
        let Some(twin) = twin else {
            let problem = "the text has the name of a special token, and characters of both private planes of Unicode";
            return Err(Error::bad_input(&self.origin, problem, "remove the private characters from the text"));
        };
        twin.encode(text, &marks, |tokenizer, text| self.encode_by(tokenizer, text, false))
    }

    fn encode_by(&self, tokenizer: &tokenizers::Tokenizer, text: &str, add_special: bool) -> Result<Encoded> {
        let encoded = caught(|| tokenizer.encode(text, add_special)).map_err(|panic| self.fault("encode this text", panic))?;
        let encoding = encoded.map_err(|cause| self.fault("encode this text", cause))?;
        let ranges: Vec<Range<usize>> = encoding.get_offsets().iter().map(|&(start, end)| start..end).collect();
        if let Some(range) = ranges.iter().find(|range| text.get((*range).clone()).is_none()) {
            return Err(self.fault("encode this text", format!("it has a token at {range:?}, which is no part of the text")));
        }
        Ok(Encoded { ids: encoding.get_ids().to_vec(), ranges })
    }

    /// The text of `ids`, without special tokens if `skip_special`. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let decode = |ids: &[u32]| {
            let decoded =
                caught(|| self.inner.decode(ids, skip_special)).map_err(|panic| self.fault("decode these tokens", panic))?;
            decoded.map_err(|cause| self.fault("decode these tokens", cause))
        };
        match skip_special {
            true => decode(&ids.iter().copied().filter(|id| !self.is_special(*id)).collect::<Vec<_>>()),
            false => decode(ids),
        }
    }

    fn fault(&self, what: &str, cause: impl Display) -> Error {
        Error::failed(&self.origin, format!("cannot {what}: {cause}"), "check that the tokenizer belongs to the model")
    }

    /// Text from ids as they come, special tokens left out.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self, true)
    }

    /// As [`Self::decode_stream`], with the text of special tokens.
    pub fn decode_stream_with_special(&self) -> DecodeStream<'_> {
        DecodeStream::new(self, false)
    }

    /// A token as the vocabulary writes it (`Ġmountain`, `▁mountain`, `<|im_end|>`).
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token as the vocabulary writes it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether the token is a mark (start, end, role) and not text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// The special tokens, as they are written in text.
    pub fn special_tokens(&self) -> &[(u32, String)] {
        &self.special_tokens
    }

    /// The ids that end a generation, the model's own end token first. May be empty.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// Ids of tokens that end a generation by their names (`<|im_end|>`, `<|eot_id|>`, ...) though the model's files do not
    /// say so, as in llama.cpp.
    pub fn end_marks(&self) -> &[u32] {
        &self.end_marks
    }

    /// What a user should know about the files, each a sentence or two.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Where the tokenizer comes from, as messages name it.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The token that ends a text for training: the tokenizer's own `eos_token`, else the first of [`Self::eos_token_ids`].
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos_token_id
    }

    pub fn bos_token_id(&self) -> Option<u32> {
        self.bos_token_id
    }

    /// One more than the largest id. The model's embedding may have more rows (padding), never fewer.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}

/// Adds the tokens that other files than `tokenizer.json` tell of, in the order and by the rules of transformers.
fn add_tokens(tokenizer: &mut tokenizers::Tokenizer, tokens: &[AddedTokenSource]) {
    let known: HashSet<String> = tokenizer.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
    let new: Vec<tokenizers::AddedToken> = tokens
        .iter()
        .filter(|token| !(token.fallback && known.contains(&token.content)))
        .map(|token| tokenizers::AddedToken {
            content: token.content.clone(),
            single_word: token.single_word,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            normalized: token.normalized,
            special: token.special,
        })
        .collect();
    tokenizer.add_tokens(&new);
}

fn retyped_note(retyped: &[(u32, String)]) -> String {
    const SHOWN: usize = 6;
    let mut names = retyped.iter().take(SHOWN).map(|(id, token)| format!("{token:?} (id {id})")).collect::<Vec<_>>().join(", ");
    if retyped.len() > SHOWN {
        names += &format!(" and {} more", retyped.len() - SHOWN);
    }
    format!("the GGUF file types {names} as ordinary text; it is read as a control token, as llama.cpp does")
}
