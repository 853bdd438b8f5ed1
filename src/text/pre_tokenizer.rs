//! Pre-tokenizers of byte-level BPE: the rules that cut text into words, inside which alone merges happen.
//!
//! GGUF files name the rule in `tokenizer.ggml.pre`; the patterns are those of the models' own `tokenizer.json`.
//! A wrong rule gives other ids for the same text, silently and for digits first of all, so an unknown name is an error.

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use crate::{Error, Result};

/// The names of `tokenizer.ggml.pre` that are supported.
pub const SUPPORTED: [&str; 4] = ["smollm", "gpt-2", "llama-bpe", "qwen2"];

/// Llama 3: contractions in any case, one leading non-letter with a word, digits in threes, line ends kept together.
const LLAMA_BPE: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Qwen 2 and 2.5: as Llama 3, but every digit alone.
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// The rule as the GGUF key `tokenizer.ggml.pre` names it, and what a model with this rule does besides.
pub struct PreTokenizer {
    /// Cuts into words and maps bytes to the visible characters of the vocabulary.
    pub rule: PreTokenizerWrapper,
    /// A word that is itself in the vocabulary is taken whole, even where no chain of merges leads to it (Llama 3).
    pub ignore_merges: bool,
    /// Unicode is composed (NFC) first (Qwen 2).
    pub compose: bool,
    /// A BOS token is put first unless the file says otherwise (Llama 3).
    pub add_bos: bool,
}

impl PreTokenizer {
    /// The pre-tokenizer called `name`. An unknown or missing name is an error that lists [`SUPPORTED`].
    pub fn named(name: Option<&str>) -> Result<Self> {
        let plain = |rule| Self { rule, ignore_merges: false, compose: false, add_bos: false };
        match name {
            // GPT-2's own pattern is built into the byte-level step.
            Some("gpt-2") => Ok(plain(byte_level(true).into())),
            Some("smollm") => {
                let digits = Digits::new(true).into();
                Ok(plain(Sequence::new(vec![digits, byte_level(true).into()]).into()))
            }
            Some("llama-bpe" | "llama3" | "llama-v3") => {
                Ok(Self { ignore_merges: true, add_bos: true, ..plain(split_then_bytes(LLAMA_BPE)?) })
            }
            Some("qwen2") => Ok(Self { compose: true, ..plain(split_then_bytes(QWEN2)?) }),
            other => Err(Error::bad_input(
                "tokenizer.ggml.pre",
                match other {
                    Some(name) => format!("the pre-tokenizer `{name}` is not supported"),
                    None => "the file does not name its pre-tokenizer, so its token ids cannot be known".to_string(),
                },
                format!(
                    "supported in GGUF files: {}; or use the model's Hugging Face folder, whose tokenizer.json says it all",
                    SUPPORTED.join(", ")
                ),
            )),
        }
    }
}

/// `use_regex`: cut with GPT-2's pattern; otherwise only map bytes to characters.
fn byte_level(use_regex: bool) -> ByteLevel {
    ByteLevel::new(false, false, use_regex)
}

fn split_then_bytes(pattern: &str) -> Result<PreTokenizerWrapper> {
    let split = Split::new(SplitPattern::Regex(pattern.to_string()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|cause| Error::failed("pre-tokenizer", cause, "this is a fault of graftling: please report it"))?;
    Ok(Sequence::new(vec![split.into(), byte_level(false).into()]).into())
}
