//! [`Tokenizer`]: text to token ids and back.

use std::collections::HashSet;
use std::fmt::Display;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokenizers::ModelWrapper;

use super::decode_stream::DecodeStream;
use super::gguf_vocabulary::{self, Built};
use super::literal::Literal;
use super::marks;
use crate::confined::{Confinement, Limits, Stopped, confined};
use crate::files;
use crate::formats::{AddedTokenSource, TextSource, TokenizerSource, open};
use crate::{Error, Result};

/// Bytes of the longest text that is encoded. Encoding takes about a hundred times the memory.
const LONGEST_TEXT: usize = 8 << 20;
/// Texts above so many bytes are encoded one at a time.
const LONG_TEXT: usize = 1 << 20;
/// Seconds that encoding or decoding may take, besides a second for each [`BYTES_A_SECOND`]: sound tokenizers take a tenth of that, and the
/// machine may be busy.
const WORKING: u64 = 5;
const BYTES_A_SECOND: usize = 64 << 10;
/// Bytes that encoding or decoding may hold, besides [`MEMORY_A_BYTE`] for each byte of the text.
const WORKING_MEMORY: usize = 256 << 20;
const MEMORY_A_BYTE: usize = 512;

/// llama.cpp puts the token behind prompts as well where this key is set, and programs that generate refuse such a file.
const ADDS_EOS: &str = "`tokenizer.ggml.add_eos_token` is true: texts end with the end token when they are learned, as always; \
                        prompts for generation do not get it";

/// What reading a tokenizer of `size` bytes may take. The largest known ones have 35 MB, and take seconds.
fn loading(size: usize) -> Limits {
    Limits::new(20, size, 1 << 20, (512 << 20) + size.saturating_mul(64))
}

/// A tokenizer that exceeds a bound.
fn excessive(origin: &str, what: &str, stopped: &Stopped) -> Error {
    let proposal = "the tokenizer comes with the model: use a model whose source you trust";
    Error::bad_input(origin, format!("the tokenizer {stopped} {what}").trim_end(), proposal)
}

/// The model's tokenizer. One instance serves any number of threads.
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    /// The same tokenizer, but the text of a special token is plain text to it. Made when first needed.
    literal: OnceLock<Arc<Literal>>,
    /// Its rules are a stranger's program.
    confinement: Confinement,
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
                let proposal = "a model folder needs its tokenizer.json (not tokenizer.model); download it from the same place";
                let bytes = open::read(path, files::TOKENIZER, proposal)?;
                let not_one = |cause: &dyn Display| {
                    Error::bad_input(&origin, format!("this is not a tokenizer: {cause}"), "download the file again")
                };
                let limits = loading(bytes.len());
                let added = source.added_tokens.clone();
                let read = confined(limits, move || {
                    tokenizers::Tokenizer::from_bytes(&bytes).map(|mut tokenizer| {
                        add_tokens(&mut tokenizer, &added);
                        tokenizer
                    })
                });
                let read = read.map_err(|stopped| match stopped {
                    Stopped::Panic(message) => not_one(&message),
                    _ => excessive(&origin, "while it was read", &stopped),
                })?;
                let inner = read.map_err(|cause| not_one(&cause))?;
                (inner, source.add_bos, origin)
            }
            TokenizerSource::Gguf(gguf) => {
                let size = |texts: &[String]| texts.iter().map(|text| text.len() + 16).sum::<usize>();
                let limits = loading(size(&gguf.tokens) + size(&gguf.merges));
                let vocabulary = gguf.clone();
                let built = confined(limits, move || gguf_vocabulary::build(&vocabulary)).map_err(|stopped| match stopped {
                    Stopped::Panic(message) => {
                        Error::bad_input("tokenizer.ggml.tokens", message, "convert or download the GGUF file again")
                    }
                    _ => excessive("tokenizer.ggml", "while it was read", &stopped),
                })?;
                let Built { tokenizer, add_bos, retyped } = built?;
                let add_bos = gguf.add_bos_token.or(source.add_bos).unwrap_or(add_bos);
                if !retyped.is_empty() {
                    notes.push(retyped_note(&retyped));
                }
                if gguf.add_eos_token == Some(true) {
                    notes.push(ADDS_EOS.to_string());
                }
                (tokenizer, Some(add_bos), "the tokenizer in the GGUF file".to_string())
            }
        };
        // Some files carry the truncation and padding of the run that wrote them. Lengths are decided here.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|cause| Error::bad_input(&origin, cause, "download the file again"))?;

        if without_dropout(&mut inner) {
            notes.push("the tokenizer cuts words at random (`dropout` of its model), which is left out here".to_string());
        }
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
        Ok(Self {
            inner: Arc::new(inner),
            literal: OnceLock::new(),
            confinement: Confinement::default(),
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
        let twin = self.twin_for(text)?;
        twin.encode(text, &marks, |tokenizer, text| self.encode_by(tokenizer, text, false))
    }

    /// The tokenizer to which the names of special tokens are text, with private characters that `text` does not use.
    fn twin_for(&self, text: &str) -> Result<Arc<Literal>> {
        if let Some(twin) = self.literal.get().filter(|twin| twin.suits(text)) {
            return Ok(Arc::clone(twin));
        }
        let (inner, special, plane) = (Arc::clone(&self.inner), self.special.clone(), Literal::plane_for(text));
        let made = self.run("tell special tokens from text", 0, move || Literal::of(&inner, &special, plane?))?;
        let Some(twin) = made.map(Arc::new) else {
            let problem = "the text has the name of a special token, and characters of both private planes of Unicode";
            return Err(Error::bad_input(&self.origin, problem, "remove the private characters from the text"));
        };
        Ok(if self.literal.get().is_some() { twin } else { Arc::clone(self.literal.get_or_init(|| twin)) })
    }

    fn encode_by(&self, tokenizer: &Arc<tokenizers::Tokenizer>, text: &str, add_special: bool) -> Result<Encoded> {
        if text.len() > LONGEST_TEXT {
            let problem = format!("a text of {} MiB is too long: the most is {} MiB", text.len() >> 20, LONGEST_TEXT >> 20);
            return Err(Error::bad_input("text", problem, "cut it into several records; a model reads its first tokens only"));
        }
        // The memory of several threads at once adds up.
        static LONG: Mutex<()> = Mutex::new(());
        let _alone = (text.len() > LONG_TEXT).then(|| LONG.lock().unwrap_or_else(PoisonError::into_inner));
        let (tokenizer, owned) = (Arc::clone(tokenizer), text.to_string());
        let encoded = self.run("encode this text", text.len(), move || tokenizer.encode(owned, add_special))?;
        let encoding = encoded.map_err(|cause| self.fault("encode this text", cause))?;
        let ranges: Vec<Range<usize>> = encoding.get_offsets().iter().map(|&(start, end)| start..end).collect();
        if let Some(range) = ranges.iter().find(|range| text.get((*range).clone()).is_none()) {
            return Err(self.fault("encode this text", format!("it has a token at {range:?}, which is no part of the text")));
        }
        Ok(Encoded { ids: encoding.get_ids().to_vec(), ranges })
    }

    /// The text of `ids`, without special tokens if `skip_special`. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let inner = Arc::clone(&self.inner);
        let ids: Vec<u32> = ids.iter().copied().filter(|id| !skip_special || !self.is_special(*id)).collect();
        let decoded = self.run("decode these tokens", 4 * ids.len(), move || inner.decode(&ids, skip_special))?;
        decoded.map_err(|cause| self.fault("decode these tokens", cause))
    }

    /// The error of all further work, once the tokenizer has exceeded a bound. For those who went on without a text that they did not get.
    pub fn stopped(&self) -> Result<()> {
        self.confinement.stopped().map_or(Ok(()), |stopped| Err(excessive(&self.origin, "", stopped)))
    }

    /// Lets the tokenizer's rules work on `size` bytes, confined.
    fn run<T: Send + 'static>(&self, what: &str, size: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let memory = WORKING_MEMORY + size.saturating_mul(MEMORY_A_BYTE);
        let limits = Limits::new(WORKING, size, BYTES_A_SECOND, memory);
        self.confinement.run(limits, work).map_err(|stopped| match stopped {
            Stopped::Panic(message) => self.fault(what, message),
            _ => excessive(&self.origin, &format!("(to {what})"), &stopped),
        })
    }

    fn fault(&self, what: &str, cause: impl Display) -> Error {
        Error::bad_input(&self.origin, format!("cannot {what}: {cause}"), "check that the tokenizer belongs to the model")
    }

    /// Text from ids as they come, special tokens left out.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self, true)
    }

    /// As [`Self::decode_stream`], with the text of special tokens.
    pub fn decode_stream_with_special(&self) -> DecodeStream<'_> {
        DecodeStream::new(self, false)
    }

    /// The tokenizer as a `tokenizer.json` has it, with the tokens that other files add.
    ///
    /// # Errors
    /// If it cannot be put into words.
    pub fn to_json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(&*self.inner).map_err(|cause| self.fault("write this tokenizer", cause))
    }

    /// Whether BOS goes first, where another file than `tokenizer.json` says so.
    pub fn adds_bos(&self) -> Option<bool> {
        self.add_bos
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

/// Turns BPE dropout off, which gives a text other ids each time; says whether it was on.
fn without_dropout(tokenizer: &mut tokenizers::Tokenizer) -> bool {
    let ModelWrapper::BPE(model) = tokenizer.get_model() else { return false };
    if model.dropout.is_none_or(|dropout| dropout == 0.0) {
        return false;
    }
    let mut model = model.clone();
    model.dropout = None;
    tokenizer.with_model(model);
    true
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
