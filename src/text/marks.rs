//! Marks: tokens that structure a text (begin it, end a turn, name a role) and are never written as text.
//!
//! A model's files should list them as special. Where a file does not, a mark is cut into pieces of text, which no one sees
//! who reads the text: the model then learns to write `<`, `|`, `im`, ... instead of the one token that ends its turn. So marks
//! are known here by their looks, with the names that llama.cpp knows (`llama_vocab::impl::load`) and the rule of its
//! converter (`does_token_look_special`), and [`split_in_template`] finds those that a tokenizer would cut.

use std::collections::HashSet;

use super::{ChatTemplate, Message, Tokenizer};
use crate::Error;

/// Tokens that end a generation in llama.cpp whatever the file says of them.
const ENDS: [&str; 19] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<turn|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<eos>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "<end_of_utterance>",
];

/// Other marks whose looks say nothing.
const OTHERS: [&str; 12] = [
    "<start_of_turn>",
    "<bos>",
    "<pad>",
    "<mask>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "<2mass>",
    "[@BOS@]",
];

/// Characters of the longest mark that is looked for.
const LONGEST: usize = 64;

/// Whether a generation ends with this token in any model that has it.
pub fn ends_generation(token: &str) -> bool {
    ENDS.contains(&token)
}

/// Whether a token is a mark by its looks: one of the known ones, `<|...|>`, or `<unused...>`.
pub fn looks_special(token: &str) -> bool {
    let between = |open: &str, close: &str| {
        token.strip_prefix(open).and_then(|rest| rest.strip_suffix(close)).is_some_and(|inner| !inner.is_empty())
    };
    ENDS.contains(&token)
        || OTHERS.contains(&token)
        || between("<|", "|>")
        || between("<\u{ff5c}", "\u{ff5c}>")
        || between("<unused", ">")
}

/// A mark that `template` writes, and that stands in the vocabulary, and yet becomes several tokens.
///
/// It is looked for in two conversations as the template writes them, and by its looks in the template's source.
pub fn split_in_template(tokenizer: &Tokenizer, template: &ChatTemplate) -> Option<String> {
    let turn = |role: &str| Message::new(role, "graftling");
    let turns = [turn("system"), turn("user"), turn("assistant"), turn("user")];
    // A template may refuse one of them.
    let written = [&turns[..], &turns[1..3]].map(|turns| template.render(turns, true).unwrap_or_default());
    let in_source = candidates(template.source()).filter(|mark| looks_special(mark));
    let mut seen = HashSet::new();
    let mut all = written.iter().flat_map(|text| candidates(text)).chain(in_source).filter(|mark| seen.insert(*mark));
    all.find(|mark| is_split(tokenizer, mark)).map(str::to_string)
}

/// The refusal of a tokenizer that cuts `mark` into pieces.
pub fn refusal(tokenizer: &Tokenizer, mark: &str) -> Error {
    let id = tokenizer.token_id(mark).unwrap_or_default();
    let pieces = tokenizer.encode(mark, false).map_or(0, |ids| ids.len());
    let problem = format!(
        "{mark:?} is token {id} of the vocabulary, but becomes {pieces} other tokens where a text has it, since the model's files do \
         not list it as a special token: the model would read and learn to write those pieces"
    );
    let proposal = format!(
        "add {{\"id\": {id}, \"content\": {mark:?}, \"special\": true, ...}} to \"added_tokens\" in tokenizer.json, or get the model's \
         tokenizer_config.json (with added_tokens_decoder) from where the model comes from; in a GGUF file the token's type must be \
         control (3)"
    );
    Error::bad_input(tokenizer.origin(), problem, proposal)
}

/// Whether `mark` is a token of the vocabulary that its own text does not give.
pub fn is_split(tokenizer: &Tokenizer, mark: &str) -> bool {
    tokenizer.token_id(mark).is_some_and(|id| {
        // SentencePiece may put a space before it.
        tokenizer.encode(mark, false).is_ok_and(|ids| ids != [id] && !ids.contains(&id))
    })
}

/// Stretches `<...>` and `[...]` without white space or another opening bracket.
fn candidates(text: &str) -> impl Iterator<Item = &str> {
    text.char_indices().filter(|(_, open)| matches!(open, '<' | '[')).filter_map(|(start, open)| {
        let close = if open == '<' { '>' } else { ']' };
        let end = text[start + 1..].char_indices().take(LONGEST).find_map(|(at, character)| match character {
            _ if character == close => Some(Some(at)),
            _ if character == open || character.is_whitespace() => Some(None),
            _ => None,
        })??;
        Some(&text[start..start + 1 + end + 1])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_in_a_template() {
        let template = "{{ '<|im_start|>' ~ m['role'] }}<end_of_turn>[INST] a < b > c <|x|><\u{ff5c}User\u{ff5c}>";
        let found: Vec<&str> = candidates(template).collect();
        assert_eq!(found, ["<|im_start|>", "['role']", "<end_of_turn>", "[INST]", "<|x|>", "<\u{ff5c}User\u{ff5c}>"]);
    }

    #[test]
    fn looks() {
        for mark in ["<|im_end|>", "<|a|>", "<end_of_turn>", "<unused12>", "<\u{ff5c}User\u{ff5c}>"] {
            assert!(looks_special(mark), "{mark}");
        }
        for text in ["<||>", "<b>", "the", "<|a", "[x]"] {
            assert!(!looks_special(text), "{text}");
        }
        assert!(ends_generation("<|im_end|>") && !ends_generation("<|im_start|>"));
    }
}
