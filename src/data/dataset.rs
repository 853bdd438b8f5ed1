//! [`load`]: a JSONL file to examples with a loss mask.
//!
//! Which tokens are supervised, by kind of record:
//!
//! * `messages`: what the assistant says and the special token that ends its turn ([`super::conversation`]). The text is all
//!   the template's: no BOS or EOS is added to it.
//! * `prompt`, `completion`: all tokens that stand for a part of the completion, the two being encoded as one text. A token
//!   that holds the end of the prompt and the beginning of the completion counts as completion.
//! * `text`: all.
//! * `input_ids`, `labels`: as given; without `labels`, all.
//!
//! For `prompt`/`completion` and `text`, BOS comes first if the tokenizer puts it there, and EOS is appended and supervised
//! unless the text ends with one already: both as TRL's SFTTrainer does. A text that begins with BOS itself gets no second one,
//! and one that ends with EOS and white space (as chat templates write) no second EOS.
//!
//! The first token of an example is predicted by nothing, so a label on it teaches nothing and is not counted.
//! An example longer than `max_length` keeps its beginning, as in TRL.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::conversation;
use super::record::{self, KINDS, Place, Record};
use crate::files;
use crate::text::{ChatTemplate, Encoded, Tokenizer, marks};
use crate::{Error, Result};

/// One record as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub input_ids: Vec<u32>,
    /// As long as `input_ids`. `labels[i]` is the id that is to be predicted for position `i`, from the positions before it;
    /// `None`: not supervised.
    pub labels: Vec<Option<u32>>,
    /// The line of the file, counted from 1.
    pub line: usize,
}

impl Example {
    /// How many tokens the loss is taken over. The first has nothing that it could be predicted from.
    pub fn supervised_tokens(&self) -> usize {
        self.labels.iter().skip(1).flatten().count()
    }
}

/// What was read, and what of it cannot be learned from. All `Vec`s hold line numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataReport {
    pub path: String,
    /// Records in the file.
    pub records: usize,
    /// Records that became examples.
    pub examples: usize,
    /// Tokens of all examples.
    pub tokens: usize,
    /// Tokens of all examples that the loss is taken over.
    pub supervised_tokens: usize,
    /// Tokens of the longest example.
    pub longest: usize,
    pub max_length: usize,
    /// Records in which nothing is supervised: left out.
    pub empty_mask: Vec<usize>,
    /// Records that were longer than `max_length` and lost their end, but still teach something.
    pub truncated: Vec<usize>,
    /// Records in which nothing supervised is left after the cut: left out.
    pub cut_to_nothing: Vec<usize>,
    /// Records with assistant turns that the chat template rewrites, which are context only.
    pub rewritten_turns: Vec<usize>,
    /// Records with the name of a special token inside a message, encoded as plain text.
    pub neutralised: Vec<usize>,
    /// The special tokens that end learned turns or texts, by id.
    pub turn_ends: Vec<u32>,
    /// Records with something learned after which no end token is learned.
    pub unended: Vec<usize>,
}

/// Examples in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    pub examples: Vec<Example>,
    pub report: DataReport,
}

impl Dataset {
    /// A short name for the content: two data sets with the same one give the same batches. For `--resume`.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for example in &self.examples {
            hash.update((example.input_ids.len() as u64).to_le_bytes());
            for (id, label) in example.input_ids.iter().zip(&example.labels) {
                hash.update(id.to_le_bytes());
                hash.update(label.map_or(-100i64, i64::from).to_le_bytes());
            }
        }
        hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// That every id has a row in an embedding of `vocab_size` rows. A tokenizer can know more tokens than its model.
    pub fn check_vocabulary(&self, vocab_size: usize) -> Result<()> {
        for example in &self.examples {
            let all = example.input_ids.iter().chain(example.labels.iter().flatten());
            if let Some(id) = all.into_iter().find(|id| **id as usize >= vocab_size) {
                return Err(Error::bad_input(
                    format!("{}:{}", self.report.path, example.line),
                    format!("the record gives the token id {id}, but the model has only {vocab_size} tokens"),
                    "the tokenizer and the weights do not belong together, or the ids were made with another tokenizer",
                ));
            }
        }
        Ok(())
    }
}

/// An encoded record before it is cut.
struct Encoding {
    input_ids: Vec<u32>,
    labels: Vec<Option<u32>>,
    rewritten: bool,
    neutralised: bool,
    /// The special tokens that end what is learned.
    ends: Vec<u32>,
    /// Whether something learned has no such end.
    unended: bool,
}

/// Reads `path` and encodes its records. `template` is needed for `messages` only.
///
/// # Errors
/// The file cannot be read; a line is not a record (see [`record::parse`]); the chat template fails on one; the file has no
/// records; no record has anything to learn.
pub fn load(path: &Path, tokenizer: &Tokenizer, template: Option<&ChatTemplate>, max_length: usize) -> Result<Dataset> {
    let name = path.display().to_string();
    if max_length < 2 {
        let problem = format!("{max_length} is too short: a token is predicted from the ones before it");
        return Err(Error::bad_input("--max-length", problem, "use 2 or more; 512 to 2048 is usual"));
    }
    let bytes = files::read(path, files::ANY)
        .map_err(|cause| Error::bad_input(&name, format!("cannot read the data: {cause}"), format!("a data file has {KINDS}")))?;
    let lines: Vec<(usize, &[u8])> = (1..)
        .zip(bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes).split(|byte| *byte == b'\n'))
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .collect();
    if lines.is_empty() {
        return Err(Error::bad_input(&name, "the file has no records", format!("a data file has {KINDS}")));
    }
    // What the template writes is checked once, when a conversation needs it.
    let split = OnceLock::new();
    let check = |template: &ChatTemplate| match split.get_or_init(|| marks::split_in_template(tokenizer, template)) {
        Some(mark) => Err(marks::refusal(tokenizer, mark)),
        None => Ok(()),
    };
    // In parallel, but the order and the first error are those of the file.
    let encoded: Vec<Result<Encoding>> = lines
        .par_iter()
        .map(|&(line, bytes)| {
            let place = Place { path: &name, line };
            let text = std::str::from_utf8(bytes).map_err(|cause| {
                let problem = format!("this is not UTF-8 text (byte {} of the line)", cause.valid_up_to() + 1);
                place.error(problem, "save the file as UTF-8")
            })?;
            let record = record::parse(place, text, tokenizer.vocab_size())?;
            if let (Record::Messages(_), Some(template)) = (&record, template) {
                check(template)?;
            }
            encode(place, record, tokenizer, template)
        })
        .collect();

    let mut report = DataReport { path: name, records: lines.len(), max_length, ..DataReport::default() };
    let mut examples = Vec::with_capacity(lines.len());
    for ((line, _), encoding) in lines.into_iter().zip(encoded) {
        let Encoding { mut input_ids, mut labels, rewritten, neutralised, ends, unended } = encoding?;
        let supervised = |labels: &[Option<u32>]| labels.iter().skip(1).any(Option::is_some);
        if rewritten {
            report.rewritten_turns.push(line);
        }
        if neutralised {
            report.neutralised.push(line);
        }
        if !supervised(&labels) {
            report.empty_mask.push(line);
            continue;
        }
        if unended {
            report.unended.push(line);
        }
        report.turn_ends.extend(ends);
        if input_ids.len() > max_length {
            input_ids.truncate(max_length);
            labels.truncate(max_length);
            if !supervised(&labels) {
                report.cut_to_nothing.push(line);
                continue;
            }
            report.truncated.push(line);
        }
        let example = Example { input_ids, labels, line };
        report.tokens += example.input_ids.len();
        report.supervised_tokens += example.supervised_tokens();
        report.longest = report.longest.max(example.input_ids.len());
        examples.push(example);
    }
    report.examples = examples.len();
    report.turn_ends.sort_unstable();
    report.turn_ends.dedup();
    if examples.is_empty() {
        return Err(Error::bad_input(
            &report.path,
            format!("there is nothing to learn in this file\n{report}"),
            "give records with something to learn (an assistant turn, a completion), or a larger --max-length",
        ));
    }
    Ok(Dataset { examples, report })
}

fn encode(place: Place<'_>, record: Record, tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Result<Encoding> {
    match record {
        // What ids end with is for those who made them.
        Record::Tokens { input_ids, labels } => {
            Ok(Encoding { input_ids, labels, rewritten: false, neutralised: false, ends: Vec::new(), unended: false })
        }
        Record::Text(text) => plain(tokenizer, &text, 0..text.len()).map_err(|cause| at(place, cause)),
        Record::Completion { prompt, completion } => {
            let text = format!("{prompt}{completion}");
            plain(tokenizer, &text, prompt.len()..text.len()).map_err(|cause| at(place, cause))
        }
        Record::Messages(messages) => {
            let template = template.ok_or_else(|| {
                place.error(
                    "the record has `messages`, but the model has no chat template",
                    "use the instruction-tuned version of the model, or records with `prompt` and `completion`",
                )
            })?;
            let conversation = conversation::encode(tokenizer, template, &messages).map_err(|cause| at(place, cause))?;
            let input_ids = conversation.encoded.ids;
            let labels = input_ids.iter().zip(conversation.supervised).map(|(id, learned)| learned.then_some(*id)).collect();
            Ok(Encoding {
                input_ids,
                labels,
                rewritten: conversation.rewritten_turns > 0,
                neutralised: conversation.neutralised_messages > 0,
                ends: conversation.turn_ends,
                unended: conversation.unended_turns > 0,
            })
        }
    }
}

/// Text without a template: the bytes `learned` are supervised, and so is the EOS that is appended.
fn plain(tokenizer: &Tokenizer, text: &str, learned: Range<usize>) -> Result<Encoding> {
    let end = tokenizer.eos_token_id().and_then(|id| tokenizer.token(id));
    if let Some(end) = end.filter(|end| text.contains(end.as_str()) && marks::is_split(tokenizer, end)) {
        return Err(marks::refusal(tokenizer, &end));
    }
    let Encoded { mut ids, ranges } = tokenizer.encode_with_ranges(text, true)?;
    let mut labels: Vec<Option<u32>> =
        ids.iter().zip(&ranges).map(|(id, range)| (range.end > learned.start && range.end > 0).then_some(*id)).collect();
    let ends = ids.last().is_some_and(|id| tokenizer.eos_token_ids().contains(id));
    if ends && let (Some(label), Some(id)) = (labels.last_mut(), ids.last()) {
        *label = Some(*id);
    } else if !ends_before_blanks(tokenizer, text, &ids, &ranges)
        && let Some(eos) = tokenizer.eos_token_id()
    {
        ids.push(eos);
        labels.push(Some(eos));
    }
    let unended = !labels.iter().flatten().any(|id| tokenizer.is_special(*id));
    Ok(Encoding { input_ids: ids, labels, rewritten: false, neutralised: false, ends: Vec::new(), unended })
}

/// Whether a text that a chat template wrote already ends with an end token, but for a line end after it.
fn ends_before_blanks(tokenizer: &Tokenizer, text: &str, ids: &[u32], ranges: &[Range<usize>]) -> bool {
    let blank = |range: &Range<usize>| text.get(range.clone()).is_some_and(|piece| piece.trim().is_empty());
    let last = ids.iter().zip(ranges).rev().find(|(id, range)| tokenizer.is_special(**id) || !blank(range));
    last.is_some_and(|(id, _)| tokenizer.eos_token_ids().contains(id))
}

/// The same error with the record's line before its own place.
fn at(place: Place<'_>, cause: Error) -> Error {
    match cause {
        Error::BadInput { place: inner, problem, proposal } => {
            Error::BadInput { place: format!("{place}: {inner}"), problem, proposal }
        }
        Error::Failed { place: inner, problem, proposal } => {
            Error::Failed { place: format!("{place}: {inner}"), problem, proposal }
        }
        other => other, // no record's fault
    }
}

impl fmt::Display for DataReport {
    /// Several lines, the last without a line end. Empty lists are not mentioned.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, records, examples, tokens, supervised_tokens, longest, max_length, .. } = self;
        write!(f, "{path}: {records} {}, {examples} of them used", noun(*records, "record"))?;
        if *examples > 0 {
            let share = 100.0 * *supervised_tokens as f64 / *tokens as f64;
            write!(f, "\n  {tokens} tokens, {supervised_tokens} of them supervised ({share:.0} %)")?;
            write!(f, "\n  the longest record used has {longest} tokens; --max-length is {max_length}")?;
        }
        let mut list = |lines: &[usize], what: &str| match lines.len() {
            0 => Ok(()),
            count => write!(f, "\n  {count} {} {what}: {}", noun(count, "record"), named(lines)),
        };
        list(&self.empty_mask, "left out, with nothing to learn (no assistant turn, empty completion, all labels -100)")?;
        list(&self.cut_to_nothing, "left out, with nothing to learn within --max-length")?;
        list(&self.truncated, "cut to --max-length")?;
        list(&self.rewritten_turns, "with assistant turns that the chat template rewrites; these turns are not learned")?;
        list(&self.neutralised, "with a special token inside a message, which is treated as plain text")?;
        list(
            &self.unended,
            "in which no end token is learned: the model will not learn to stop there (the chat template writes none \
                             after what the assistant says, or the model has none)",
        )
    }
}

fn noun(count: usize, singular: &str) -> String {
    format!("{singular}{}", if count == 1 { "" } else { "s" })
}

/// `line 3`, `lines 3, 5`, `lines 1, 2, 3, 4, 5, 6, 7, 8 and 92 more`.
fn named(lines: &[usize]) -> String {
    const SHOWN: usize = 8;
    let shown = lines.iter().take(SHOWN).map(usize::to_string).collect::<Vec<_>>().join(", ");
    match lines.len().saturating_sub(SHOWN) {
        0 => format!("{} {shown}", noun(lines.len(), "line")),
        more => format!("lines {shown} and {more} more"),
    }
}
