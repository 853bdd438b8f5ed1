//! [`load_files`]: records to examples with a loss mask.
//!
//! Which tokens are supervised, by kind of record:
//!
//! * `messages`, `conversations`: what the assistant says and the special token that ends its turn ([`super::conversation`]), but for
//!   messages of `"weight": 0`. The text is all the template's: no BOS or EOS is added to it.
//! * `prompt`, `completion` as lists of messages: the same, of the completion only.
//! * `prompt`, `completion`: all tokens that stand for a part of the completion, the two being encoded as one text. A token
//!   that holds the end of the prompt and the beginning of the completion counts as completion.
//! * `instruction`, `input`, `output`: the output. With a chat template, instruction and input (on the next line) are the user's turn,
//!   so that the model is asked afterwards as it is asked in any chat; without one, they stand in Alpaca's own prompt.
//! * `text`: all.
//! * `input_ids`, `labels`: as given; without `labels`, all.
//!
//! For `prompt`/`completion` and `text`, BOS comes first if the tokenizer puts it there, and EOS is appended and supervised
//! unless the text ends with one already: both as TRL's SFTTrainer does. A text that begins with BOS itself gets no second one,
//! and one that ends with EOS and white space (as chat templates write) no second EOS.
//!
//! The first token of an example is predicted by nothing, so a label on it teaches nothing and is not counted.
//! An example longer than `max_length` keeps its beginning, as in TRL, unless [`LongRecords`] says something else.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::held_out::is_held_out;
use super::long::{self, LongRecords};
use super::record::{self, Parsed, Place, Raw, Record};
use super::report::DataReport;
use super::source::SourceFile;
use super::{conversation, tool_calls};
use crate::text::{ChatTemplate, Encoded, Message, TemplateInputs, Tokenizer, marks};
use crate::{Error, Result};

/// One record as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub input_ids: Vec<u32>,
    /// As long as `input_ids`. `labels[i]` is the id that is to be predicted for position `i`, from the positions before it;
    /// `None`: not supervised.
    pub labels: Vec<Option<u32>>,
    /// The line of the file, counted from 1; or the row, or the place in a list. With several files the count goes on from one to the
    /// next: [`DataReport::place`] tells which it is.
    pub line: usize,
}

impl Example {
    /// How many tokens the loss is taken over. The first has nothing that it could be predicted from.
    pub fn supervised_tokens(&self) -> usize {
        self.labels.iter().skip(1).flatten().count()
    }
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
                    self.report.place(example.line),
                    format!("the record gives the token id {id}, but the model has only {vocab_size} tokens"),
                    "the tokenizer and the weights do not belong together, or the ids were made with another tokenizer",
                ));
            }
        }
        Ok(())
    }
}

/// What is made of records.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadOptions {
    /// Tokens of the longest example.
    pub max_length: usize,
    pub long_records: LongRecords,
    /// Share of the records that is held out, above 0 and below 1.
    pub eval_split: Option<f64>,
}

impl LoadOptions {
    /// Longer records are cut, and none is held out.
    pub fn new(max_length: usize) -> Self {
        Self { max_length, long_records: LongRecords::Cut, eval_split: None }
    }
}

/// An encoded record before it is cut.
struct Encoding {
    input_ids: Vec<u32>,
    labels: Vec<Option<u32>>,
    /// Whether a part of it teaches what it teaches as a part of the whole.
    can_be_split: bool,
    rewritten: bool,
    neutralised: bool,
    unseen: Vec<&'static str>,
    passed_over: Vec<String>,
    held_out: bool,
    /// The special tokens that end what is learned.
    ends: Vec<u32>,
    /// Whether something learned has no such end.
    unended: bool,
}

/// Reads one file and encodes its records. `template` is needed for `messages` only.
///
/// # Errors
/// As [`load_files`].
pub fn load(path: &Path, tokenizer: &Tokenizer, template: Option<&ChatTemplate>, max_length: usize) -> Result<Dataset> {
    load_files(&[path.to_path_buf()], tokenizer, template, LoadOptions::new(max_length)).map(|(data, _)| data)
}

/// Reads files one after the other and encodes their records; with `eval_split` the second data set has what is held out.
///
/// # Errors
/// A file cannot be read, or is none of [`super::source`]; a record is none (see [`record::parse`]); the chat template fails on one;
/// there are no records, or none with anything to learn; nothing is held out, or everything.
pub fn load_files(
    paths: &[PathBuf],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    options: LoadOptions,
) -> Result<(Dataset, Option<Dataset>)> {
    if options.max_length < 2 {
        let problem = format!("{} is too short: a token is predicted from the ones before it", options.max_length);
        return Err(Error::bad_input("--max-length", problem, "use 2 or more; 512 to 2048 is usual"));
    }
    let files = paths.iter().map(|path| SourceFile::open(path)).collect::<Result<Vec<_>>>()?;
    let all: Vec<(usize, usize)> =
        files.iter().enumerate().flat_map(|(file, records)| (0..records.len()).map(move |record| (file, record))).collect();
    // What the template writes is checked once, when a conversation needs it.
    let split = OnceLock::new();
    let check = |template: &ChatTemplate| match split.get_or_init(|| marks::split_in_template(tokenizer, template)) {
        Some(mark) => Err(marks::refusal(tokenizer, mark)),
        None => Ok(()),
    };
    // In parallel, but the order and the first error are those of the files.
    let encoded: Vec<Result<Encoding>> = all
        .par_iter()
        .map(|&(file, record)| {
            let (place, raw) = files[file].record(record);
            let Parsed { record, passed_over } = record::parse(place, raw, tokenizer.vocab_size())?;
            let held_out = options.eval_split.is_some_and(|share| is_held_out(&record, share));
            if let (Record::Messages { .. } | Record::Instruction { .. }, Some(template)) = (&record, template) {
                check(template)?;
            }
            Ok(Encoding { passed_over, held_out, ..encode(place, record, tokenizer, template)? })
        })
        .collect();

    let mut train = Builder { report: DataReport::of(&files, options.max_length), examples: Vec::new(), options };
    let mut held_out = Builder { report: train.report.clone(), examples: Vec::new(), options };
    for ((file, record), encoding) in all.into_iter().zip(encoded) {
        let number = train.report.files[file].before + files[file].record(record).0.number;
        let encoding = encoding?;
        let side = if encoding.held_out { &mut held_out } else { &mut train };
        side.push(number, encoding);
    }
    let Some(share) = options.eval_split else { return Ok((train.finish()?, None)) };
    for (side, what) in [(&train, "left for training"), (&held_out, "held out")] {
        if side.report.records == 0 {
            let problem = format!("of {} records none is {what}", train.report.records + held_out.report.records);
            let proposal = "give another share: which records are held out depends on their content; or give --eval-data FILE";
            return Err(Error::bad_input(format!("--eval-split {share}"), problem, proposal));
        }
    }
    held_out.report.path += &format!(", held out by --eval-split {share}");
    Ok((train.finish()?, Some(held_out.finish()?)))
}

/// A record that stands alone, in no file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoneRecord {
    /// All its tokens: nothing is cut.
    pub example: Example,
    /// As [`record::Record::kind`].
    pub kind: &'static str,
    /// What is not learned from it although it looks so, in words.
    pub notes: Vec<&'static str>,
}

/// Encodes one record, a JSON object as a line of a data file has it, by the code that reads files.
///
/// # Errors
/// As [`record::parse`]; the chat template fails on it; an id that the model does not have.
pub fn encode_record(
    json: &str,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    vocab_size: usize,
) -> Result<LoneRecord> {
    let place = Place::line("record", 1);
    let parsed = record::parse(place, Raw::Json(json.as_bytes()), vocab_size)?;
    let kind = parsed.record.kind();
    let Encoding { input_ids, labels, rewritten, neutralised, unended, .. } = encode(place, parsed.record, tokenizer, template)?;
    let learned = labels.iter().skip(1).flatten().count();
    let notes = [
        (learned == 0, "nothing in it is learned"),
        (rewritten, "the chat template rewrites an earlier assistant turn: that turn is read, not learned"),
        (neutralised, "a message contains the name of a special token: it is read as plain characters"),
        (unended, "no end token is learned here: the model will not learn to stop"),
    ];
    let notes = notes.into_iter().filter(|(is_so, _)| *is_so).map(|(_, note)| note).collect();
    Ok(LoneRecord { example: Example { input_ids, labels, line: 1 }, kind, notes })
}

/// A data set in the making.
struct Builder {
    report: DataReport,
    examples: Vec<Example>,
    options: LoadOptions,
}

impl Builder {
    fn push(&mut self, line: usize, encoding: Encoding) {
        let Encoding {
            mut input_ids, mut labels, can_be_split, rewritten, neutralised, unseen, passed_over, ends, unended, ..
        } = encoding;
        let LoadOptions { max_length, long_records, .. } = self.options;
        let report = &mut self.report;
        let supervised = |labels: &[Option<u32>]| labels.iter().skip(1).flatten().count();
        report.records += 1;
        report.passed_over.extend(passed_over);
        if rewritten {
            report.rewritten_turns.push(line);
        }
        if neutralised {
            report.neutralised.push(line);
        }
        for what in unseen {
            report.unseen.entry(what).or_default().push(line);
        }
        let before = supervised(&labels);
        if before == 0 {
            report.empty_mask.push(line);
            return;
        }
        if unended {
            report.unended.push(line);
        }
        report.turn_ends.extend(ends);
        if input_ids.len() > max_length {
            match long_records {
                LongRecords::Split if can_be_split => {
                    report.split.push(line);
                    report.used += 1;
                    for piece in long::pieces(input_ids.len(), max_length) {
                        let example =
                            Example { input_ids: input_ids[piece.clone()].to_vec(), labels: labels[piece].to_vec(), line };
                        self.add(example);
                    }
                    return;
                }
                LongRecords::Drop => {
                    report.dropped.push(line);
                    report.dropped_tokens.add(input_ids.len(), before);
                    return;
                }
                LongRecords::Cut | LongRecords::Split => {
                    let tokens = input_ids.len() - max_length;
                    input_ids.truncate(max_length);
                    labels.truncate(max_length);
                    let left = supervised(&labels);
                    report.lost.add(tokens, before - left);
                    report.could_be_split |= can_be_split;
                    if left == 0 {
                        report.cut_to_nothing.push(line);
                        return;
                    }
                    report.truncated.push(line);
                }
            }
        }
        report.used += 1;
        self.add(Example { input_ids, labels, line });
    }

    fn add(&mut self, example: Example) {
        // A last piece of one token.
        if example.supervised_tokens() == 0 {
            return;
        }
        self.report.tokens += example.input_ids.len();
        self.report.supervised_tokens += example.supervised_tokens();
        self.report.longest = self.report.longest.max(example.input_ids.len());
        self.examples.push(example);
    }

    fn finish(mut self) -> Result<Dataset> {
        self.report.examples = self.examples.len();
        self.report.turn_ends.sort_unstable();
        self.report.turn_ends.dedup();
        let Self { report, examples, .. } = self;
        if examples.is_empty() {
            return Err(Error::bad_input(
                &report.path,
                format!("there is nothing to learn in this file\n{report}"),
                "give records with something to learn (an assistant turn, a completion), or a larger --max-length",
            ));
        }
        Ok(Dataset { examples, report })
    }
}

fn encode(place: Place<'_>, record: Record, tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Result<Encoding> {
    let of_text = |text: &str, learned: Range<usize>, can_be_split: bool| {
        let encoding = plain(tokenizer, text, learned).map_err(|cause| at(place, cause))?;
        Ok(Encoding { can_be_split, ..encoding })
    };
    match record {
        Record::Tokens { input_ids, labels } => {
            let can_be_split = labels.iter().all(Option::is_some);
            Ok(Encoding::new(input_ids, labels, can_be_split))
        }
        Record::Text(text) => of_text(&text, 0..text.len(), true),
        Record::Completion { prompt, completion } => {
            let text = format!("{prompt}{completion}");
            of_text(&text, prompt.len()..text.len(), false)
        }
        Record::Instruction { system, instruction, input, output } => match template {
            Some(template) => {
                let asked = if input.is_empty() { instruction } else { format!("{instruction}\n{input}") };
                let turns = [system.map(|system| Message::new("system", system)), Some(Message::new("user", asked))];
                let messages = turns.into_iter().flatten().chain([Message::new("assistant", output)]).collect();
                of_messages(messages, &TemplateInputs::default(), tokenizer, template).map_err(|cause| at(place, cause))
            }
            None => {
                let system = system.map_or(String::new(), |system| format!("{system}\n\n"));
                let prompt = system + &alpaca_prompt(&instruction, &input);
                let text = format!("{prompt}{output}");
                of_text(&text, prompt.len()..text.len(), false)
            }
        },
        Record::Messages { messages, inputs } => {
            let template = template.ok_or_else(|| {
                place.error(
                    "the record has `messages`, but the model has no chat template",
                    "use the instruction-tuned version of the model, or records with `prompt` and `completion`",
                )
            })?;
            of_messages(messages, &inputs, tokenizer, template).map_err(|cause| at(place, cause))
        }
    }
}

fn of_messages(
    messages: Vec<Message>,
    inputs: &TemplateInputs,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
) -> Result<Encoding> {
    let messages = tool_calls::suited(template, messages, inputs)?;
    let conversation = conversation::encode_with(tokenizer, template, &messages, inputs)?;
    let unseen = tool_calls::unseen(&messages, inputs, &conversation.text);
    let ids = conversation.encoded.ids;
    let labels = ids.iter().zip(conversation.supervised).map(|(id, learned)| learned.then_some(*id)).collect();
    let (rewritten, neutralised) = (conversation.rewritten_turns > 0, conversation.neutralised_messages > 0);
    let (ends, unended) = (conversation.turn_ends, conversation.unended_turns > 0);
    Ok(Encoding { rewritten, neutralised, unseen, ends, unended, ..Encoding::new(ids, labels, false) })
}

impl Encoding {
    fn new(input_ids: Vec<u32>, labels: Vec<Option<u32>>, can_be_split: bool) -> Self {
        Self {
            input_ids,
            labels,
            can_be_split,
            rewritten: false,
            neutralised: false,
            unseen: Vec::new(),
            passed_over: Vec::new(),
            held_out: false,
            ends: Vec::new(),
            unended: false,
        }
    }
}

/// The prompt of Stanford Alpaca, for models without a chat template.
fn alpaca_prompt(instruction: &str, input: &str) -> String {
    let (with_input, input) = match input {
        "" => ("", String::new()),
        input => (", paired with an input that provides further context", format!("### Input:\n{input}\n\n")),
    };
    format!(
        "Below is an instruction that describes a task{with_input}. Write a response that appropriately completes the request.\n\n\
         ### Instruction:\n{instruction}\n\n{input}### Response:\n"
    )
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
    Ok(Encoding { unended, ..Encoding::new(ids, labels, false) })
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
