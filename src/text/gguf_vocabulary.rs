//! A tokenizer from the `tokenizer.ggml.*` metadata of a GGUF file.
//!
//! Two families: `gpt2` is byte-level BPE with explicit merges; `llama` is SentencePiece BPE, whose merges follow from
//! the scores of the pieces (the piece with the highest score is built first) and whose unknown characters fall back to
//! byte tokens `<0x00>` .. `<0xFF>`. Token types say which tokens are never made from text by merging: control tokens
//! (special: `<|im_end|>`) and user-defined ones. Some converters give marks the type of ordinary tokens; those are known by
//! their looks ([`super::marks`]), as in llama.cpp.

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Sequence as NormalizerSequence};
use tokenizers::{AddedToken, Tokenizer};

use super::marks;
use super::pre_tokenizer::PreTokenizer;
use crate::formats::GgufTokenizer;
use crate::{Error, Result};

/// How SentencePiece writes a space.
pub(crate) const SPACE: &str = "\u{2581}";

pub(crate) use crate::formats::token_types::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};

/// Bytes of the longest token that is believed; the longest of known models have some hundred. All ways to cut a piece in two are tried,
/// so a piece of a megabyte would take for ever.
const LONGEST_TOKEN: usize = 1024;

const CONVERT_AGAIN: &str = "the GGUF file is damaged or was written by a faulty converter: convert or download it again";

/// A tokenizer as a GGUF file describes it.
pub struct Built {
    pub tokenizer: Tokenizer,
    /// Whether encoding puts BOS first when neither the file nor the user decides.
    pub add_bos: bool,
    /// Marks that the file types as ordinary tokens; they are control tokens here.
    pub retyped: Vec<(u32, String)>,
}

/// Builds the tokenizer.
///
/// # Errors
/// Another tokenizer model than `gpt2` and `llama`, an unsupported pre-tokenizer, lists of unequal length, a merge that
/// is not a pair of tokens of the vocabulary.
pub fn build(source: &GgufTokenizer) -> Result<Built> {
    let count = source.tokens.len();
    if count == 0 || count > u32::MAX as usize {
        return Err(Error::bad_input("tokenizer.ggml.tokens", format!("there are {count} tokens"), CONVERT_AGAIN));
    }
    if let Some(id) = source.tokens.iter().position(|token| token.len() > LONGEST_TOKEN) {
        let problem = format!("token {id} has {} bytes, more than {LONGEST_TOKEN}", source.tokens[id].len());
        return Err(Error::bad_input("tokenizer.ggml.tokens", problem, CONVERT_AGAIN));
    }
    for (key, length) in [("token_type", source.token_types.len()), ("scores", source.scores.len())] {
        if length != 0 && length != count {
            let problem = format!("{length} values for {count} tokens");
            return Err(Error::bad_input(format!("tokenizer.ggml.{key}"), problem, CONVERT_AGAIN));
        }
    }
    let (mut tokenizer, add_bos) = match source.model.as_str() {
        "gpt2" => byte_level_bpe(source)?,
        "llama" => (sentence_piece(source)?, true),
        other => {
            return Err(Error::bad_input(
                "tokenizer.ggml.model",
                format!("the tokenizer model `{other}` is not supported"),
                "supported in GGUF files: gpt2 (byte-level BPE), llama (SentencePiece)",
            ));
        }
    };
    // Control tokens are found in the text as it stands, before any normalisation.
    let (mut all_added, mut retyped) = (Vec::new(), Vec::new());
    for (id, token) in (0u32..).zip(&source.tokens) {
        let added = |special| AddedToken::from(token.clone(), special).normalized(false);
        let named = [source.bos_token_id, source.eos_token_id, source.unknown_token_id].contains(&Some(id));
        // Without types, the tokens that other keys name are the only ones known to be control tokens.
        let untyped = if named { CONTROL } else { NORMAL };
        match source.token_types.get(id as usize).copied().unwrap_or(untyped) {
            _ if token.is_empty() => {}
            CONTROL | UNKNOWN => all_added.push(added(true)),
            // User-defined tokens are found whole in any case; only those that end a text must be more.
            NORMAL | USER_DEFINED if marks::ends_generation(token) => {
                retyped.push((id, token.clone()));
                all_added.push(added(true));
            }
            NORMAL if marks::looks_special(token) && !written_as_text(&tokenizer, id, token) => {
                retyped.push((id, token.clone()));
                all_added.push(added(true));
            }
            USER_DEFINED => all_added.push(added(false)),
            _ => {}
        }
    }
    // All at once: each call looks at all that were added before.
    tokenizer.add_tokens(&all_added);
    Ok(Built { tokenizer, add_bos, retyped })
}

/// Whether merging alone makes this token of its text.
fn written_as_text(tokenizer: &Tokenizer, id: u32, token: &str) -> bool {
    tokenizer.encode(token, false).is_ok_and(|encoding| encoding.get_ids() == [id])
}

fn byte_level_bpe(source: &GgufTokenizer) -> Result<(Tokenizer, bool)> {
    let pre = PreTokenizer::named(source.pre.as_deref())?;
    let mut merges = Vec::with_capacity(source.merges.len());
    for (index, merge) in source.merges.iter().enumerate() {
        // Spaces inside tokens are written as another character, so the first one is the separator.
        let Some((left, right)) = merge.split_once(' ') else {
            let place = format!("tokenizer.ggml.merges[{index}]");
            return Err(Error::bad_input(place, format!("`{merge}` is not a pair of tokens"), CONVERT_AGAIN));
        };
        merges.push((left.to_string(), right.to_string()));
    }
    if merges.is_empty() {
        return Err(Error::bad_input("tokenizer.ggml.merges", "there are no merges", CONVERT_AGAIN));
    }
    let model = BPE::builder().vocab_and_merges(vocabulary(source), merges).ignore_merges(pre.ignore_merges).build();
    let model = model.map_err(|cause| Error::bad_input("tokenizer.ggml.merges", cause, CONVERT_AGAIN))?;
    let mut tokenizer = Tokenizer::new(model);
    if pre.compose {
        tokenizer.with_normalizer(Some(NFC));
    }
    tokenizer.with_pre_tokenizer(Some(pre.rule)).with_decoder(Some(ByteLevel::default()));
    Ok((tokenizer, pre.add_bos))
}

fn sentence_piece(source: &GgufTokenizer) -> Result<Tokenizer> {
    if source.scores.is_empty() {
        let problem = "a SentencePiece vocabulary needs a score for each token";
        return Err(Error::bad_input("tokenizer.ggml.scores", problem, CONVERT_AGAIN));
    }
    let mut builder =
        BPE::builder().vocab_and_merges(vocabulary(source), merges_by_score(source)).byte_fallback(true).fuse_unk(true);
    let unknown = source.unknown_token_id.and_then(|id| source.tokens.get(id as usize));
    if let Some(unknown) = unknown {
        builder = builder.unk_token(unknown.clone());
    }
    let model = builder.build().map_err(|cause| Error::bad_input("tokenizer.ggml.tokens", cause, CONVERT_AGAIN))?;
    let replace = |from: &str, to: &str| {
        Replace::new(ReplacePattern::String(from.to_string()), to)
            .map_err(|cause| Error::failed("tokenizer", cause, "this is a fault of graftling: please report it"))
    };
    // The space prefix goes before the text and after each control token, as SentencePiece sees these pieces alone.
    let prefix = source.add_space_prefix.unwrap_or(true);
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    if prefix {
        normalizers.push(Prepend::new(SPACE.to_string()).into());
    }
    normalizers.push(replace(" ", SPACE)?.into());
    let mut decoders: Vec<DecoderWrapper> =
        vec![replace(SPACE, " ")?.into(), ByteFallback::default().into(), Fuse::default().into()];
    if prefix {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(NormalizerSequence::new(normalizers))).with_decoder(Some(DecoderSequence::new(decoders)));
    Ok(tokenizer)
}

/// Token to id. Where a token stands twice (padding of some converters), the first one is the one that text gives.
fn vocabulary(source: &GgufTokenizer) -> Vocab {
    let mut vocabulary = Vocab::with_capacity(source.tokens.len());
    for (id, token) in (0u32..).zip(&source.tokens) {
        vocabulary.entry(token.clone()).or_insert(id);
    }
    vocabulary
}

/// All ways to build a piece from two others, the piece with the highest score first; among ways to build the same piece,
/// the longer left part first, which is the leftmost where two overlap.
fn merges_by_score(source: &GgufTokenizer) -> Vec<(String, String)> {
    let vocabulary = vocabulary(source);
    let mut merges: Vec<(f32, usize, u32, &str, &str)> = Vec::new();
    for (id, (piece, score)) in (0u32..).zip(source.tokens.iter().zip(&source.scores)) {
        for (cut, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(cut);
            if vocabulary.contains_key(left) && vocabulary.contains_key(right) {
                merges.push((*score, left.chars().count(), id, left, right));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.2.cmp(&b.2)).then(b.1.cmp(&a.1)));
    merges.into_iter().map(|(_, _, _, left, right)| (left.to_string(), right.to_string())).collect()
}
