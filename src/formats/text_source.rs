//! The raw material for tokenizer and chat template, as the model's files hold it. `text/` makes something of it.

use std::path::PathBuf;

/// Everything that a model's files say about text.
#[derive(Clone, Debug)]
pub struct TextSource {
    /// The vocabulary and its rules.
    pub tokenizer: TokenizerSource,
    /// The Jinja source of the chat template, if the model has one.
    pub chat_template: Option<String>,
    /// The text of the token that begins a sequence.
    pub bos_token: Option<String>,
    /// The text of the token that ends a sequence.
    pub eos_token: Option<String>,
    pub bos_token_id: Option<u32>,
    /// All ids that end a generation, the first being the model's own `eos_token_id`.
    pub eos_token_ids: Vec<u32>,
    /// Whether encoding puts the BOS token first, if the files say so in a place other than `tokenizer.json`.
    pub add_bos: Option<bool>,
    /// All tokens that the files give a role (`bos_token`, `pad_token`, ...), as a chat template sees them.
    pub named_tokens: Vec<(String, String)>,
    /// Tokens that stand in other files than `tokenizer.json`, in the order in which they are added to its own.
    pub added_tokens: Vec<AddedTokenSource>,
}

impl TextSource {
    /// A tokenizer about which no other file says anything.
    pub fn of(tokenizer: TokenizerSource) -> Self {
        Self {
            tokenizer,
            chat_template: None,
            bos_token: None,
            eos_token: None,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            add_bos: None,
            named_tokens: Vec::new(),
            added_tokens: Vec::new(),
        }
    }

    /// The same with further tokens, which get the ids behind the last one.
    #[must_use]
    pub fn extended(mut self, tokens: &[AddedTokenSource]) -> Self {
        match &mut self.tokenizer {
            TokenizerSource::Json(_) => self.added_tokens.extend_from_slice(tokens),
            TokenizerSource::Gguf(gguf) => tokens.iter().for_each(|token| gguf.push(token)),
        }
        self
    }
}

/// A token that is found in the text before anything else happens to it, and how it is found there. The flags are those of
/// `added_tokens` in `tokenizer.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedTokenSource {
    pub content: String,
    /// Not a part of a longer word.
    pub single_word: bool,
    /// Takes the white space before it.
    pub lstrip: bool,
    /// Takes the white space after it.
    pub rstrip: bool,
    /// Is looked for in the normalised text.
    pub normalized: bool,
    /// Is a mark and no text.
    pub special: bool,
    /// Counts only where `tokenizer.json` does not list a token of this text itself.
    pub fallback: bool,
}

impl AddedTokenSource {
    /// A token that is found as it is written.
    pub fn new(content: &str, special: bool) -> Self {
        let content = content.to_owned();
        Self { content, single_word: false, lstrip: false, rstrip: false, normalized: false, special, fallback: false }
    }
}

/// Where the tokenizer comes from.
#[derive(Clone, Debug)]
pub enum TokenizerSource {
    /// The path of a `tokenizer.json`. It may not exist: a model can be examined or trained on ids without it.
    Json(PathBuf),
    /// The vocabulary in a GGUF file's metadata.
    Gguf(GgufTokenizer),
}

/// The `tokenizer.ggml.*` metadata of a GGUF file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufTokenizer {
    /// `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: String,
    /// The pre-tokenizer: `smollm`, `llama-bpe`, `qwen2`, ...
    pub pre: Option<String>,
    /// The token of each id.
    pub tokens: Vec<String>,
    /// SentencePiece scores, one a token, or empty.
    pub scores: Vec<f32>,
    /// One a token, or empty: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Vec<u32>,
    /// BPE merges in order of rank, each `"left right"`.
    pub merges: Vec<String>,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<u32>,
    pub unknown_token_id: Option<u32>,
    pub add_bos_token: Option<bool>,
    /// Whether llama.cpp puts EOS behind every text that it encodes.
    pub add_eos_token: Option<bool>,
    /// Whether SentencePiece puts a space before the text.
    pub add_space_prefix: Option<bool>,
}

/// Values of `tokenizer.ggml.token_type`.
pub mod token_types {
    pub const NORMAL: u32 = 1;
    pub const UNKNOWN: u32 = 2;
    /// Special.
    pub const CONTROL: u32 = 3;
    /// Found as it is written.
    pub const USER_DEFINED: u32 = 4;
    pub const UNUSED: u32 = 5;
    pub const BYTE: u32 = 6;
}

impl GgufTokenizer {
    /// Adds a token behind the last one.
    fn push(&mut self, token: &AddedTokenSource) {
        if self.token_types.is_empty() {
            self.token_types = vec![token_types::NORMAL; self.tokens.len()];
        }
        self.tokens.push(token.content.clone());
        self.token_types.push(if token.special { token_types::CONTROL } else { token_types::USER_DEFINED });
        if !self.scores.is_empty() {
            self.scores.push(0.0);
        }
    }
}
