//! Files with records, whatever their form: JSONL, a JSON list, CSV or Parquet, plain or gzipped, one file or a folder.
//!
//! What a file is, its content says; the name decides only where the content does not (CSV).
//!
//! * `bytes`: a file's content, unpacked, if it can be text or Parquet at all;
//! * `json`: lines, and the elements of a list;
//! * `table`: CSV; `parquet`: Parquet. Their rows become JSON objects, one key a column;
//! * [`folder`]: `train.jsonl` and `valid.jsonl`.

mod bytes;
pub mod folder;
mod json;
mod parquet;
mod table;

use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value};

use super::record::KINDS;
use crate::{Error, Result};

/// What the records of a file are counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    #[default]
    Line,
    /// Rows of a Parquet file.
    Row,
    /// Elements of a JSON list.
    Record,
}

/// Where a record stands, for messages.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub path: &'a str,
    pub unit: Unit,
    /// Of this unit, counted from 1.
    pub number: usize,
    /// The line of the file in which the record begins; 0 where there are no lines.
    pub line: usize,
}

impl<'a> Place<'a> {
    /// A line of a text file.
    pub fn line(path: &'a str, line: usize) -> Self {
        Self { path, unit: Unit::Line, number: line, line }
    }

    pub fn error(&self, problem: impl fmt::Display, proposal: impl fmt::Display) -> Error {
        Error::bad_input(self, problem, proposal)
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, unit, number, line } = self;
        match unit {
            Unit::Line => write!(f, "{path}:{line}"),
            Unit::Row => write!(f, "{path}, row {number}"),
            Unit::Record if *line > 0 => write!(f, "{path}:{line}, record {number}"),
            Unit::Record => write!(f, "{path}, record {number}"),
        }
    }
}

/// A file, cut into its records; what they hold is for [`super::record`].
pub struct SourceFile {
    pub path: String,
    pub unit: Unit,
    records: Records,
}

enum Records {
    /// JSON text.
    Text { bytes: Vec<u8>, spans: Vec<Span> },
    /// Rows of a table.
    Rows(Vec<(usize, Map<String, Value>)>),
}

/// A record in a text file.
struct Span {
    number: usize,
    line: usize,
    bytes: Range<usize>,
}

/// A record that is not yet understood.
#[derive(Clone, Copy)]
pub enum Raw<'a> {
    Json(&'a [u8]),
    Row(&'a Map<String, Value>),
}

impl SourceFile {
    /// Reads `path` and cuts it into records.
    ///
    /// # Errors
    /// The file cannot be read, is of a kind that is not read (which is then named), is damaged, or has no records.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let (mut bytes, packed) = bytes::read(path)?;
        let mut file = name.to_ascii_lowercase();
        if packed {
            file.truncate(file.strip_suffix(".gz").map_or(file.len(), str::len));
        }
        if let Some((what, proposal)) = foreign(&bytes) {
            return Err(Error::bad_input(&name, format!("this is {what}"), proposal));
        }
        let (unit, records) = if bytes.starts_with(b"PAR1") {
            (Unit::Row, Records::Rows(parquet::rows(&name, bytes)?))
        } else {
            if bytes.starts_with(b"\xEF\xBB\xBF") {
                bytes.drain(..3);
            }
            let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
            let json = matches!(first, Some(b'{' | b'['));
            if (file.ends_with(".csv") || file.ends_with(".tsv") || table::has_header(&bytes))
                && !(json && table::is_json(&bytes))
            {
                (Unit::Line, Records::Rows(table::rows(&name, &bytes)?))
            } else if first == Some(&b'[') {
                let spans = json::elements(&name, &bytes)?;
                (Unit::Record, Records::Text { bytes, spans })
            } else {
                let spans = json::lines(&bytes);
                (Unit::Line, Records::Text { bytes, spans })
            }
        };
        let file = Self { path: name, unit, records };
        match file.len() {
            0 => Err(Error::bad_input(&file.path, "the file has no records", format!("a data file has {KINDS}"))),
            _ => Ok(file),
        }
    }

    /// Records.
    pub fn len(&self) -> usize {
        match &self.records {
            Records::Text { spans, .. } => spans.len(),
            Records::Rows(rows) => rows.len(),
        }
    }

    /// Whether there are none; [`Self::open`] refuses such a file.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The record with this index, and its place.
    pub fn record(&self, index: usize) -> (Place<'_>, Raw<'_>) {
        let place = |number, line| Place { path: &self.path, unit: self.unit, number, line };
        match &self.records {
            Records::Text { bytes, spans } => {
                let Span { number, line, bytes: span } = &spans[index];
                (place(*number, *line), Raw::Json(&bytes[span.clone()]))
            }
            Records::Rows(rows) => {
                let (number, row) = &rows[index];
                (place(*number, if self.unit == Unit::Line { *number } else { 0 }), Raw::Row(row))
            }
        }
    }

    /// The largest number of a record.
    pub fn last_number(&self) -> usize {
        self.len().checked_sub(1).map_or(0, |last| self.record(last).0.number)
    }
}

/// What the file is, and what to do, if its first bytes tell that it is no data that is read here.
fn foreign(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let starts = |with: &[u8]| bytes.starts_with(with);
    let utf8 = "save it as UTF-8 (iconv -f UTF-16 -t UTF-8, or \"Save as\" in an editor)";
    let unpack = "unpack it first; a gzipped file (.gz) is read as it is";
    let even_zeros = bytes.len() >= 4 && bytes[0] != 0 && bytes[1] == 0 && bytes[2] != 0 && bytes[3] == 0;
    let odd_zeros = bytes.len() >= 4 && bytes[0] == 0 && bytes[1] != 0 && bytes[2] == 0 && bytes[3] != 0;
    let text = bytes.trim_ascii_start();
    let wide = bytes.len() >= 4 && (bytes[..3] == [0; 3] || (bytes[0] != 0 && bytes[1..4] == [0; 3])) && !starts(b"\0\0\0\0");
    Some(if starts(b"\xff\xfe\0\0") || starts(b"\0\0\xfe\xff") || wide {
        ("text in UTF-32, not UTF-8", "save it as UTF-8 (iconv -f UTF-32 -t UTF-8)")
    } else if starts(b"\x1f\x8b") {
        ("a gzipped file inside a gzipped file", "unpack it once")
    } else if starts(b"\xff\xfe") || starts(b"\xfe\xff") || even_zeros || odd_zeros {
        ("text in UTF-16, not UTF-8", utf8)
    } else if starts(b"PK\x03\x04") {
        ("a zip file (or a spreadsheet, .xlsx)", "unpack it first, or save the spreadsheet as CSV")
    } else if starts(b"\x28\xb5\x2f\xfd") {
        ("a zstd file", unpack)
    } else if starts(b"BZh") {
        ("a bzip2 file", unpack)
    } else if starts(b"\xfd7zXZ") {
        ("an xz file", unpack)
    } else if starts(b"ARROW1") || starts(b"\xff\xff\xff\xff") {
        ("an Arrow file", "write the data set by its to_json or to_parquet")
    } else if starts(b"\x80\x02") || starts(b"\x80\x03") || starts(b"\x80\x04") || starts(b"\x80\x05") {
        ("a Python pickle, which can run any program", "write the data as JSONL")
    } else if starts(b"SQLite format 3") {
        ("an SQLite data base", "export the table as CSV")
    } else if text.get(..9).is_some_and(|head| head.eq_ignore_ascii_case(b"<!doctype"))
        || text.get(..5).is_some_and(|head| head.eq_ignore_ascii_case(b"<html"))
    {
        (
            "a web page (HTML), not data",
            "download the file itself: on Hugging Face by \"download\" or `resolve` in place of `blob` in its address",
        )
    } else {
        return None;
    })
}
