//! A tokenizer as the `tokenizer.ggml.*` metadata of a GGUF file, as llama.cpp's `convert_hf_to_gguf.py` writes them.
//!
//! Byte-level BPE keeps its merges, and its pre-tokenizer must be one that has a name in GGUF files. SentencePiece's BPE (Llama 2, Gemma)
//! keeps scores instead: merges are ranked, and a piece's score is the rank at which it can first be built, negated, so that the pieces are
//! built in the same order. What comes of it is compared with the original on texts of many kinds before it is written: a vocabulary that
//! means something else in a GGUF file is refused.

use std::collections::HashMap;

use serde_json::Value;

use crate::architecture::Architecture;
use crate::formats::gguf::writer::Pair;
use crate::formats::{GgufTokenizer, TextSource, TokenizerSource};
use crate::text::Tokenizer;
use crate::text::gguf_vocabulary::{BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED};
use crate::text::pre_tokenizer::{PreTokenizer, SUPPORTED};
use crate::{Error, Result};

/// What to do about a tokenizer that cannot be said.
const ELSEWHERE: &str = "Use --to safetensors, and llama.cpp's convert_hf_to_gguf.py on the folder if it knows the model.";

/// The metadata of a model's tokenizer and chat template.
///
/// # Errors
/// Bad input: a tokenizer of another kind, an unknown pre-tokenizer, or one that would read texts otherwise in a GGUF file.
pub fn pairs(text: &TextSource, tokenizer: &Tokenizer, model: &Architecture) -> Result<Vec<Pair>> {
    let vocabulary = of(text, tokenizer, model)?;
    compare(text, tokenizer, &vocabulary)?;
    let mut pairs = vec![
        Pair::string("tokenizer.ggml.model", &vocabulary.model),
        Pair::string("tokenizer.ggml.pre", vocabulary.pre.as_deref().unwrap_or("default")),
        Pair::strings("tokenizer.ggml.tokens", &vocabulary.tokens),
    ];
    if !vocabulary.scores.is_empty() {
        pairs.push(Pair::f32s("tokenizer.ggml.scores", &vocabulary.scores));
    }
    let types: Vec<i32> = vocabulary.token_types.iter().map(|&kind| kind as i32).collect();
    pairs.push(Pair::i32s("tokenizer.ggml.token_type", &types));
    if !vocabulary.merges.is_empty() {
        pairs.push(Pair::strings("tokenizer.ggml.merges", &vocabulary.merges));
    }
    let role = |role: &str| {
        let named = text.named_tokens.iter().find(|(name, _)| name == role);
        named.and_then(|(_, token)| tokenizer.token_id(token))
    };
    // All ends of the model, the tokenizer's own first: a file has room for three.
    let mut ends: Vec<u32> = vocabulary.eos_token_id.into_iter().collect();
    ends.extend(text.eos_token_ids.iter().filter(|id| Some(**id) != vocabulary.eos_token_id));
    for (key, id) in [
        ("bos", vocabulary.bos_token_id),
        ("eos", ends.first().copied()),
        ("eot", ends.get(1).copied()),
        ("eom", ends.get(2).copied()),
        ("unknown", vocabulary.unknown_token_id),
        ("padding", role("pad_token")),
    ] {
        pairs.extend(id.map(|id| Pair::u32(format!("tokenizer.ggml.{key}_token_id"), id)));
    }
    pairs.extend(vocabulary.add_bos_token.map(|add| Pair::flag("tokenizer.ggml.add_bos_token", add)));
    pairs.extend(vocabulary.add_space_prefix.map(|add| Pair::flag("tokenizer.ggml.add_space_prefix", add)));
    pairs.extend(text.chat_template.as_ref().map(|template| Pair::string("tokenizer.chat_template", template)));
    Ok(pairs)
}

fn of(text: &TextSource, tokenizer: &Tokenizer, model: &Architecture) -> Result<GgufTokenizer> {
    let json = tokenizer.to_json()?;
    let bad = |problem: String| Error::bad_input(tokenizer.origin(), problem, ELSEWHERE);
    let kind = json["model"]["type"].as_str().unwrap_or("unknown");
    if kind != "BPE" {
        return Err(bad(format!("is of kind {kind}; in GGUF files graftling writes BPE, byte-level or SentencePiece's")));
    }
    let sentence_piece = json["model"]["byte_fallback"] == true;
    let size = tokenizer.vocab_size().max(model.vocab_size);
    let mut tokens: Vec<String> = (0..size).map(|id| format!("[PAD{id}]")).collect();
    let mut token_types = vec![UNUSED; size];
    let place = |id: &Value| id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|&id| id < size);
    for (token, id) in json["model"]["vocab"].as_object().into_iter().flatten() {
        let id = place(id).ok_or_else(|| bad(format!("gives token {token:?} no possible id")))?;
        let is_byte = sentence_piece && token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        (tokens[id], token_types[id]) = (token.clone(), if is_byte { BYTE } else { NORMAL });
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let content = added["content"].as_str().unwrap_or_default();
        let id = place(&added["id"]).ok_or_else(|| bad(format!("gives token {content:?} no possible id")))?;
        (tokens[id], token_types[id]) = (content.to_owned(), if added["special"] == true { CONTROL } else { USER_DEFINED });
    }
    let unknown_token_id = json["model"]["unk_token"].as_str().and_then(|token| tokenizer.token_id(token));
    if let Some(id) = unknown_token_id.filter(|_| sentence_piece) {
        token_types[id as usize] = UNKNOWN;
    }
    let merges = merges(&json).ok_or_else(|| bad("has merges that are no pairs".to_owned()))?;
    let first = tokenizer.encode("a", true)?.first().copied();
    let bos_token_id = tokenizer.bos_token_id().or(text.bos_token_id);
    let shared = GgufTokenizer {
        bos_token_id,
        eos_token_id: tokenizer.eos_token_id(),
        unknown_token_id,
        add_bos_token: Some(bos_token_id.is_some() && first == bos_token_id),
        ..GgufTokenizer::default()
    };
    if sentence_piece {
        let scores = scores(&tokens, &token_types, &merges);
        return Ok(GgufTokenizer {
            model: "llama".to_owned(),
            pre: Some("default".to_owned()),
            tokens,
            scores,
            token_types,
            add_space_prefix: Some(has_space_prefix(&json)),
            ..shared
        });
    }
    let ignore_merges = json["model"]["ignore_merges"] == true;
    let pre = PreTokenizer::name_of(&json["pre_tokenizer"], &json["normalizer"], ignore_merges).ok_or_else(|| {
        bad(format!("cuts text into words by a rule that has no name among those that graftling knows: {}", SUPPORTED.join(", ")))
    })?;
    // Spaces inside a token are written as another character, also where new files keep the two parts apart.
    let merges = merges.iter().map(|(left, right)| format!("{} {}", left.replace(' ', "Ġ"), right.replace(' ', "Ġ"))).collect();
    Ok(GgufTokenizer { model: "gpt2".to_owned(), pre: Some(pre.to_owned()), tokens, token_types, merges, ..shared })
}

/// The pairs, as old files (`"left right"`) or new ones (`["left", "right"]`) have them.
fn merges(json: &Value) -> Option<Vec<(String, String)>> {
    let pair = |merge: &Value| match merge {
        Value::String(text) => text.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())),
        Value::Array(parts) => match parts.as_slice() {
            [Value::String(left), Value::String(right)] => Some((left.clone(), right.clone())),
            _ => None,
        },
        _ => None,
    };
    json["model"]["merges"].as_array().map_or(Some(Vec::new()), |merges| merges.iter().map(pair).collect())
}

/// Of each token the rank of the first merge that builds it, negated; what no merge builds comes after all others.
fn scores(tokens: &[String], types: &[u32], merges: &[(String, String)]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    let score = |(at, token): (usize, &String)| match types[at] {
        NORMAL => -(ranks.get(token).copied().unwrap_or(merges.len() + at) as f32),
        // As SentencePiece has it of tokens that it does not make, and as the converter has it of those that were added.
        CONTROL | UNKNOWN | BYTE => 0.0,
        _ => -1000.0,
    };
    tokens.iter().enumerate().map(score).collect()
}

/// Whether a space is put before the text: by the normalizer, or by the pre-tokenizer of newer files.
fn has_space_prefix(json: &Value) -> bool {
    let steps =
        |value: &Value, inner: &str| -> Vec<Value> { value[inner].as_array().cloned().unwrap_or_else(|| vec![value.clone()]) };
    let prepends =
        steps(&json["normalizer"], "normalizers").iter().any(|step| step["type"] == "Prepend" && step["prepend"] == SPACE);
    let metaspace = steps(&json["pre_tokenizer"], "pretokenizers").iter().any(|step| {
        let scheme =
            step["prepend_scheme"].as_str().unwrap_or(if step["add_prefix_space"] == false { "never" } else { "always" });
        step["type"] == "Metaspace" && scheme != "never"
    });
    prepends || metaspace
}

/// Texts in which tokenizers differ: digits, contractions, spaces, line ends, scripts, marks of composition, code.
const TEXTS: [&str; 12] = [
    "Hello, world! It's 2024-05-17; we'll pay 1234567.89 and don't ask.",
    " leading space, trailing space ",
    "two  spaces,   three,\ttab,\n\nnew lines\r\n   indented\n",
    "Grüße aus Zürich: naïve café, cafe\u{301}, Ångström, ŒUVRE",
    "Привет, мир! Ελληνικά. 東京は日本の首都です。 한국어 텍스트 שלום العربية ไทย हिन्दी",
    "emoji 👩‍🔧🎉 and ½ ² Ⅷ ١٢٣",
    "fn main() { let x_1 = vec![0u8; 16]; // a comment\n    println!(\"{}\", x_1.len()); }",
    "https://example.org/a?b=c&d=%20e#f <tag attr='v'>text</tag>",
    "CamelCaseWords ALLCAPS'LL o'clock HE'S we'Re",
    "$12.50 + 7% = ?!? ... --- ___ ***",
    "The quick brown fox jumps over the lazy dog.",
    "x",
];

/// That the vocabulary, read from a GGUF file, gives the ids that the tokenizer gives.
fn compare(text: &TextSource, tokenizer: &Tokenizer, vocabulary: &GgufTokenizer) -> Result<()> {
    let source = TextSource {
        bos_token_id: vocabulary.bos_token_id,
        eos_token_ids: text.eos_token_ids.clone(),
        add_bos: vocabulary.add_bos_token,
        ..TextSource::of(TokenizerSource::Gguf(vocabulary.clone()))
    };
    let read = Tokenizer::from_source(&source)?;
    let marks = tokenizer.special_tokens().iter().take(4).map(|(_, token)| format!("{token}Some text{token}\nmore"));
    for sample in TEXTS.iter().map(|text| (*text).to_owned()).chain(marks) {
        let (ours, theirs) = (tokenizer.encode(&sample, true)?, read.encode(&sample, true)?);
        if ours != theirs {
            let at = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
            let token = |ids: &[u32]| ids.get(at).and_then(|&id| tokenizer.token(id)).unwrap_or_default();
            let problem = format!(
                "would be another tokenizer in a GGUF file: in the text {sample:?}, {:?} would be read as {:?}",
                token(&ours),
                token(&theirs)
            );
            return Err(Error::bad_input(tokenizer.origin(), problem, ELSEWHERE));
        }
    }
    Ok(())
}
