//! Text files with JSON: one record a line, or one list of records.

use super::Span;
use crate::data::record::KINDS;
use crate::{Error, Result};

/// The lines that are not blank.
pub(super) fn lines(bytes: &[u8]) -> Vec<Span> {
    let mut start = 0;
    let mut spans = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if !line.trim_ascii().is_empty() {
            spans.push(Span { number: index + 1, line: index + 1, bytes: start..start + line.len() });
        }
        start += line.len() + 1;
    }
    spans
}

/// The elements of a JSON list. Only where they begin and end is found here, by brackets and quotes; each is parsed on its own.
///
/// # Errors
/// The list has no end, text after its end, or a comma with no element behind it.
pub(super) fn elements(path: &str, bytes: &[u8]) -> Result<Vec<Span>> {
    let mut spans: Vec<Span> = Vec::new();
    let (mut line, mut depth, mut in_text, mut escaped) = (1, 0_usize, false, false);
    // Where the element begins that is being read, and its line.
    let mut element: Option<(usize, usize)> = None;
    let mut comma = false;
    let refused = |line: usize, problem: &str, proposal: &str| Err(Error::bad_input(format!("{path}:{line}"), problem, proposal));
    for (at, &byte) in bytes.iter().enumerate() {
        if byte == b'\n' {
            line += 1;
        }
        if in_text {
            (in_text, escaped) = (escaped || byte != b'"', !escaped && byte == b'\\');
            continue;
        }
        if depth == 0 && !byte.is_ascii_whitespace() && (byte != b'[' || element.is_some() || !spans.is_empty() || comma) {
            let proposal = "a file holds one list of records, or one record a line (JSONL)";
            return refused(line, "there is more text after the end of the list", proposal);
        }
        let ends = depth == 1 && matches!(byte, b',' | b']');
        if ends {
            match element.take() {
                Some((start, line)) => spans.push(Span { number: spans.len() + 1, line, bytes: start..at }),
                None if byte == b',' || comma => {
                    return refused(line, "this is not JSON: a comma with no record behind it", "remove the comma");
                }
                None => {}
            }
            comma = byte == b',';
        } else if depth > 0 && element.is_none() && !byte.is_ascii_whitespace() {
            element = Some((at, line));
        }
        match byte {
            b'"' => in_text = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    let rest = &bytes[at + 1..];
                    return match rest.iter().position(|byte| !byte.is_ascii_whitespace()) {
                        None => Ok(spans),
                        Some(_) if lines(bytes).len() > 1 && first_line_is_whole(bytes) => {
                            refused(1, "the line is a JSON list, but there are more lines", &format!("a data file has {KINDS}"))
                        }
                        Some(offset) => {
                            let line = line + rest[..offset].iter().filter(|byte| **byte == b'\n').count();
                            let proposal = "a file holds one list of records, or one record a line (JSONL)";
                            refused(line, "there is more text after the end of the list", proposal)
                        }
                    };
                }
            }
            _ => {}
        }
    }
    refused(line, "this is not JSON: the list has no end", "the file is cut short, or a quote or bracket is missing")
}

fn first_line_is_whole(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
    line.ends_with(b"]")
}
