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

use serde_json::Value;

use crate::{Error, Result};

/// The names of `tokenizer.ggml.pre` that are supported, one for each rule; `RULES` has the others.
pub const SUPPORTED: [&str; 7] = ["smollm", "gpt-2", "llama-bpe", "dbrx", "qwen2", "gpt-4o", "tekken"];

/// Llama 3, and OpenAI's cl100k: contractions in any case, one leading non-letter with a word, digits in threes, line ends kept together.
const LLAMA_BPE: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Qwen 2 and 2.5: as Llama 3, but every digit alone.
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// OpenAI's o200k, which Phi-4-mini has: words end where capitals begin, and take their contraction.
const GPT_4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Mistral Nemo: as o200k, without contractions, and every digit alone.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// A step of a rule, before bytes become visible characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Every digit by itself.
    Digits,
    /// The pattern's matches.
    Pattern(&'static str),
    /// GPT-2's own pattern, which is built into the byte-level step.
    Gpt2,
}

/// A rule with its names, the one that is written first, and what a model with this rule does besides.
struct Rule {
    names: &'static [&'static str],
    steps: &'static [Step],
    /// A word that is itself in the vocabulary is taken whole, even where no chain of merges leads to it (Llama 3).
    ignore_merges: bool,
    /// Unicode is composed (NFC) first (Qwen 2).
    compose: bool,
    /// A BOS token is put first unless the file says otherwise (Llama 3).
    add_bos: bool,
}

const PLAIN: Rule = Rule { names: &[], steps: &[], ignore_merges: false, compose: false, add_bos: false };

/// All rules. Names of one row cut alike, in llama.cpp too.
static RULES: [Rule; 7] = [
    Rule { names: &["smollm", "refact", "starcoder", "command-r"], steps: &[Step::Digits, Step::Gpt2], ..PLAIN },
    Rule { names: &["gpt-2"], steps: &[Step::Gpt2], ..PLAIN },
    Rule {
        names: &["llama-bpe", "llama3", "llama-v3"],
        steps: &[Step::Pattern(LLAMA_BPE)],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    Rule { names: &["dbrx"], steps: &[Step::Pattern(LLAMA_BPE)], ..PLAIN },
    Rule { names: &["qwen2"], steps: &[Step::Pattern(QWEN2)], compose: true, ..PLAIN },
    Rule { names: &["gpt-4o"], steps: &[Step::Pattern(GPT_4O)], ..PLAIN },
    Rule { names: &["tekken"], steps: &[Step::Pattern(TEKKEN)], ignore_merges: true, add_bos: true, ..PLAIN },
];

/// The rule as the GGUF key `tokenizer.ggml.pre` names it, and what a model with this rule does besides.
pub struct PreTokenizer {
    /// Cuts into words and maps bytes to the visible characters of the vocabulary.
    pub rule: PreTokenizerWrapper,
    /// A word that is itself in the vocabulary is taken whole.
    pub ignore_merges: bool,
    /// Unicode is composed (NFC) first.
    pub compose: bool,
    /// A BOS token is put first unless the file says otherwise.
    pub add_bos: bool,
}

impl PreTokenizer {
    /// The pre-tokenizer called `name`. An unknown or missing name is an error that lists [`SUPPORTED`].
    pub fn named(name: Option<&str>) -> Result<Self> {
        let Some(rule) = name.and_then(|name| RULES.iter().find(|rule| rule.names.contains(&name))) else {
            return Err(Error::bad_input(
                "tokenizer.ggml.pre",
                match name {
                    Some(name) => format!("the pre-tokenizer `{name}` is not supported"),
                    None => "the file does not name its pre-tokenizer, so its token ids cannot be known".to_string(),
                },
                format!(
                    "supported in GGUF files: {}; or use the model's Hugging Face folder, whose tokenizer.json says it all",
                    SUPPORTED.join(", ")
                ),
            ));
        };
        let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
        for step in rule.steps {
            steps.push(match step {
                Step::Digits => Digits::new(true).into(),
                Step::Pattern(pattern) => split(pattern)?.into(),
                Step::Gpt2 => byte_level(true).into(),
            });
        }
        if !rule.steps.contains(&Step::Gpt2) {
            steps.push(byte_level(false).into());
        }
        let whole = if steps.len() == 1 { steps.remove(0) } else { Sequence::new(steps).into() };
        let Rule { ignore_merges, compose, add_bos, .. } = *rule;
        Ok(Self { rule: whole, ignore_merges, compose, add_bos })
    }

    /// The name of the rule that a `tokenizer.json` has, by its `pre_tokenizer`, `normalizer` and the model's `ignore_merges`; `None` if it
    /// is none of those here.
    pub fn name_of(pre_tokenizer: &Value, normalizer: &Value, ignore_merges: bool) -> Option<&'static str> {
        let steps = match pre_tokenizer["pretokenizers"].as_array() {
            Some(steps) => steps.clone(),
            None => vec![pre_tokenizer.clone()],
        };
        let compose = match normalizer["type"].as_str() {
            None => false,
            Some("NFC") => true,
            Some(_) => return None,
        };
        let same = |step: &Value, known: &Step| match known {
            Step::Digits => step["type"] == "Digits" && step["individual_digits"] == true,
            // What lies between matches is nothing, so that it may as well be removed.
            Step::Pattern(pattern) => {
                let kept = step["behavior"] == "Isolated" || (step["behavior"] == "Removed" && step["invert"] == true);
                step["type"] == "Split" && kept && step["pattern"]["Regex"] == *pattern
            }
            Step::Gpt2 => step["type"] == "ByteLevel" && step["add_prefix_space"] == false && step["use_regex"] != false,
        };
        let bytes = |step: &Value| step["type"] == "ByteLevel" && step["add_prefix_space"] == false && step["use_regex"] == false;
        let fits = |rule: &&Rule| {
            let own = rule.steps.len();
            let rest = if rule.steps.contains(&Step::Gpt2) { 0 } else { 1 };
            rule.ignore_merges == ignore_merges
                && rule.compose == compose
                && steps.len() == own + rest
                && steps.iter().zip(rule.steps).all(|(step, known)| same(step, known))
                && steps[own..].iter().all(bytes)
        };
        RULES.iter().find(fits).map(|rule| rule.names[0])
    }
}

/// `use_regex`: cut with GPT-2's pattern; otherwise only map bytes to characters.
fn byte_level(use_regex: bool) -> ByteLevel {
    ByteLevel::new(false, false, use_regex)
}

fn split(pattern: &str) -> Result<Split> {
    Split::new(SplitPattern::Regex(pattern.to_string()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|cause| Error::failed("pre-tokenizer", cause, "this is a fault of graftling: please report it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is built for a name is known by that name again.
    #[test]
    fn rules_are_known_by_what_a_tokenizer_json_says() {
        for rule in &RULES {
            let name = rule.names[0];
            let built = PreTokenizer::named(Some(name)).unwrap();
            let json = serde_json::to_value(&built.rule).unwrap();
            let normalizer = if built.compose { serde_json::json!({"type": "NFC"}) } else { Value::Null };
            assert_eq!(PreTokenizer::name_of(&json, &normalizer, built.ignore_merges), Some(name));
            assert_eq!(PreTokenizer::name_of(&json, &serde_json::json!({"type": "Lowercase"}), built.ignore_merges), None);
        }
        assert_eq!(SUPPORTED.to_vec().len(), RULES.len());
        assert!(RULES.iter().all(|rule| SUPPORTED.contains(&rule.names[0])));
        assert_eq!(PreTokenizer::name_of(&serde_json::json!({"type": "Whitespace"}), &Value::Null, false), None);
    }
}
