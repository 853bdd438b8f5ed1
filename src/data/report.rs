//! [`DataReport`]: what was read, and what of it is not learned.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::source::{Place, SourceFile, Unit};

/// What was read, and what of it cannot be learned from. All `Vec`s hold record numbers as [`Example::line`](super::Example::line).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataReport {
    /// The files, for people.
    pub path: String,
    /// In the order in which they were read.
    pub files: Vec<FileNumbers>,
    /// Records in the files.
    pub records: usize,
    /// Records that became examples.
    pub used: usize,
    /// Rows: one for each record used, or several for a record that was split.
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
    /// What `truncated` and `cut_to_nothing` lost.
    pub lost: Lost,
    /// Records that were longer than `max_length` and became several examples.
    pub split: Vec<usize>,
    /// Records that were longer than `max_length` and were left out.
    pub dropped: Vec<usize>,
    /// What `dropped` would have taught.
    pub dropped_tokens: Lost,
    /// Whether some of `truncated` would be rows of their own with `--long-records split`.
    pub could_be_split: bool,
    /// Records with assistant turns that the chat template rewrites, which are context only.
    pub rewritten_turns: Vec<usize>,
    /// Records with a special token of the template inside a message, encoded as plain text.
    pub neutralised: Vec<usize>,
    /// The special tokens that end learned turns or texts, by id.
    pub turn_ends: Vec<u32>,
    /// Records with something learned after which no end token is learned.
    pub unended: Vec<usize>,
    /// Records with something that the chat template does not show, by its name.
    pub unseen: BTreeMap<&'static str, Vec<usize>>,
    /// Columns, and keys of messages, that are no part of the record's kind.
    pub passed_over: BTreeSet<String>,
}

/// Tokens that are not learned from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    pub tokens: usize,
    /// Of `tokens`, those that the loss would have been taken over.
    pub supervised: usize,
}

impl Lost {
    pub(super) fn add(&mut self, tokens: usize, supervised: usize) {
        self.tokens += tokens;
        self.supervised += supervised;
    }
}

/// How the records of one file are numbered among those of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileNumbers {
    pub path: String,
    pub unit: Unit,
    /// The largest number of the files before this one.
    pub before: usize,
}

impl DataReport {
    /// An empty report on these files.
    pub(super) fn of(files: &[SourceFile], max_length: usize) -> Self {
        let mut before = 0;
        let numbered = |file: &SourceFile| {
            let numbers = FileNumbers { path: file.path.clone(), unit: file.unit, before };
            before += file.last_number();
            numbers
        };
        let numbers: Vec<FileNumbers> = files.iter().map(numbered).collect();
        const NAMED: usize = 3;
        let mut path = files.iter().take(NAMED).map(|file| file.path.as_str()).collect::<Vec<_>>().join(", ");
        if let Some(more @ 1..) = files.len().checked_sub(NAMED) {
            path += &format!(" and {more} more files");
        }
        Self { path, files: numbers, max_length, ..Self::default() }
    }

    /// Where the record with this number stands: `data.jsonl:3`, `data.parquet, row 3`.
    pub fn place(&self, number: usize) -> String {
        match self.files.iter().rev().find(|file| file.before < number) {
            Some(FileNumbers { path, unit, before }) => {
                Place { path, unit: *unit, number: number - before, line: if *unit == Unit::Line { number - before } else { 0 } }
                    .to_string()
            }
            None => format!("{}:{number}", self.path),
        }
    }

    /// As [`Self::named`], with the file: `lines 3, 5 of data.jsonl`.
    pub fn located(&self, numbers: &[usize]) -> String {
        let named = self.named(numbers);
        if self.files.len() > 1 { named } else { format!("{named} of {}", self.path) }
    }

    /// `line 3`, `rows 3, 5`, `lines 1, 2, 3, 4, 5, 6, 7, 8 and 92 more`; with several files their places.
    pub fn named(&self, numbers: &[usize]) -> String {
        const SHOWN: usize = 8;
        let shown = &numbers[..numbers.len().min(SHOWN)];
        let more = match numbers.len() - shown.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        if self.files.len() > 1 {
            return shown.iter().map(|number| self.place(*number)).collect::<Vec<_>>().join("; ") + &more;
        }
        let unit = match self.files.first().map(|file| file.unit).unwrap_or_default() {
            Unit::Line => "line",
            Unit::Row => "row",
            Unit::Record => "record",
        };
        let list = shown.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        format!("{} {list}{more}", noun(numbers.len(), unit))
    }
}

impl fmt::Display for DataReport {
    /// Several lines, the last without a line end. Empty lists are not mentioned.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, records, used, examples, tokens, supervised_tokens, longest, max_length, .. } = self;
        write!(f, "{path}: {records} {}, {used} of them used", noun(*records, "record"))?;
        if used != examples {
            write!(f, " as {examples} rows")?;
        }
        if *examples > 0 {
            let share = 100.0 * *supervised_tokens as f64 / *tokens as f64;
            write!(f, "\n  {tokens} tokens, {supervised_tokens} of them supervised ({share:.0} %)")?;
            write!(f, "\n  the longest record used has {longest} tokens; --max-length is {max_length}")?;
        }
        let counted = |count: usize, what: &str| format!("{count} {} {what}", noun(count, "record"));
        let mut list = |numbers: &[usize], what: &str| match numbers.len() {
            0 => Ok(()),
            count => write!(f, "\n  {}: {}", counted(count, what), self.named(numbers)),
        };
        list(&self.empty_mask, "left out, with nothing to learn (no assistant turn, empty completion, all labels -100)")?;
        list(&self.cut_to_nothing, "left out, with nothing to learn within --max-length")?;
        list(&self.truncated, "cut to --max-length")?;
        list(&self.split, "split into rows of --max-length; the first token of a row is not learned")?;
        list(&self.dropped, "left out, longer than --max-length")?;
        list(&self.rewritten_turns, "with assistant turns that the chat template rewrites; these turns are not learned")?;
        list(&self.neutralised, "with a special token inside a message, which is treated as plain text")?;
        list(
            &self.unended,
            "in which no end token is learned: the model will not learn to stop there (the chat template writes none \
             after what the assistant says, or the model has none)",
        )?;
        for (what, numbers) in &self.unseen {
            list(numbers, &format!("with {what} that the chat template does not show"))?;
        }
        for (lost, numbers) in
            [(&self.lost, [&self.truncated, &self.cut_to_nothing]), (&self.dropped_tokens, [&self.dropped, &Vec::new()])]
        {
            let count: usize = numbers.iter().map(|numbers| numbers.len()).sum();
            if count > 0 {
                let Lost { tokens, supervised } = lost;
                let what = if numbers[0] == &self.dropped { "left out" } else { "cut" };
                write!(f, "\n  {}: {tokens} tokens lost, {supervised} of them supervised", counted(count, what))?;
            }
        }
        if self.lost.tokens > 0 {
            let split =
                if self.could_be_split { ", or --long-records split, which makes several rows of such a record" } else { "" };
            write!(f, " (a larger --max-length keeps more{split})")?;
        }
        if !self.passed_over.is_empty() {
            let names: Vec<String> = self.passed_over.iter().map(|name| format!("`{name}`")).collect();
            write!(f, "\n  passed over, as they change nothing that is learned: {}", names.join(", "))?;
        }
        Ok(())
    }
}

fn noun(count: usize, singular: &str) -> String {
    format!("{singular}{}", if count == 1 { "" } else { "s" })
}
