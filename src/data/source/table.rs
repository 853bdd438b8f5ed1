//! CSV: the first row names the columns, and each row becomes an object of texts.
//!
//! Columns that hold lists (`messages`, `tools`, ...) hold them as JSON text; [`crate::data::record`] reads it.

use serde_json::{Map, Value};

use crate::data::record::{COLUMNS, KINDS};
use crate::{Error, Result};

/// Whether the first line names columns that records have, so that the file is a table whatever its name.
pub(super) fn has_header(bytes: &[u8]) -> bool {
    let line = first_line(bytes);
    let delimiter = delimiter(line);
    let mut names = line.split(|byte| *byte == delimiter).map(name);
    // One column makes a table only where the name says so: a line of prose may be the word "text".
    line.contains(&delimiter) && names.any(|name| COLUMNS.contains(&name.as_str()))
}

/// Whether the file is JSON under a wrong name: a header never begins like an object or a list of them.
pub(super) fn is_json(bytes: &[u8]) -> bool {
    let text: Vec<u8> = bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).take(2).collect();
    matches!(&text[..], b"{\"" | b"[{" | b"[[" | b"{}" | b"[]")
}

fn first_line(bytes: &[u8]) -> &[u8] {
    let line = bytes.split(|byte| *byte == b'\n').find(|line| !line.trim_ascii().is_empty());
    line.unwrap_or_default().trim_ascii()
}

fn name(cell: &[u8]) -> String {
    String::from_utf8_lossy(cell).trim().trim_matches('"').trim().to_string()
}

/// The sign between columns that the header has most of: spreadsheets write `;` where the comma is the decimal point.
fn delimiter(header: &[u8]) -> u8 {
    let count = |sign: u8| header.iter().filter(|byte| **byte == sign).count();
    [b',', b';', b'\t'].into_iter().rev().max_by_key(|sign| count(*sign)).unwrap_or(b',')
}

/// The line of a quote that opens a cell and is not closed before the end of the file.
fn unclosed_quote(bytes: &[u8], delimiter: u8) -> Option<usize> {
    let (mut line, mut opened, mut begins) = (1, None, true);
    let mut rest = bytes.iter().peekable();
    while let Some(&byte) = rest.next() {
        line += usize::from(byte == b'\n');
        match (byte, opened) {
            (b'"', Some(_)) if rest.peek() == Some(&&b'"') => drop(rest.next()),
            (b'"', Some(_)) => (opened, begins) = (None, false),
            (_, Some(_)) => {}
            (b'"', None) if begins => opened = Some(line),
            (other, None) => begins = other == delimiter || matches!(other, b'\n' | b'\r'),
        }
    }
    opened
}

/// The rows, each with the line in which it begins.
///
/// # Errors
/// A header that names a column twice or none that a record has; a quote that nothing closes; a row with more or fewer cells than the header; text that is not UTF-8.
pub(super) fn rows(path: &str, bytes: &[u8]) -> Result<Vec<(usize, Map<String, Value>)>> {
    let header_line = first_line(bytes);
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter(header_line)).flexible(true).from_reader(bytes);
    let header: Vec<String> = match reader.headers() {
        Ok(header) => header.iter().map(|name| name.trim().to_string()).collect(),
        Err(cause) => return Err(damaged(path, &cause)),
    };
    let place = format!("{path}:1");
    let mut named = header.iter().enumerate().filter(|(_, name)| !name.is_empty());
    if let Some((_, name)) = named.find(|(at, name)| header[..*at].contains(name)) {
        return Err(Error::bad_input(place, format!("two columns are named `{name}`"), "rename or remove one of them"));
    }
    if !header.iter().any(|name| COLUMNS.contains(&name.as_str())) {
        let problem = format!("the first row names no column of a record: {}", header.join(", "));
        return Err(Error::bad_input(place, problem, format!("the first row names the columns, after the keys of {KINDS}")));
    }
    if let Some(line) = unclosed_quote(bytes, delimiter(header_line)) {
        let problem = "a cell begins with a quote that nothing closes: all after it would be this one cell";
        return Err(Error::bad_input(
            format!("{path}:{line}"),
            problem,
            "close the quote; a quote inside a quoted cell is written twice",
        ));
    }
    let mut rows = Vec::new();
    // Lines are counted here: the reader takes the second half of a CR LF for the beginning of the next row.
    let (mut line, mut counted) = (1, 0);
    for row in reader.records() {
        let row = row.map_err(|cause| damaged(path, &cause))?;
        let begin = row.position().map_or(counted, |position| position.byte() as usize);
        let blank = bytes[begin..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        line += bytes[counted..begin + blank].iter().filter(|byte| **byte == b'\n').count();
        counted = begin + blank;
        if row.len() != header.len() {
            let problem = format!("the row has {} cells, but the first row names {} columns", row.len(), header.len());
            let proposal =
                "put cells that hold the separator, a quote or a line end in double quotes, and write a quote in them as two";
            return Err(Error::bad_input(format!("{path}:{line}"), problem, proposal));
        }
        let cells = header.iter().zip(row.iter());
        let row: Map<String, Value> = cells.map(|(name, cell)| (name.clone(), Value::String(cell.to_string()))).collect();
        rows.push((line, row));
    }
    Ok(rows)
}

fn damaged(path: &str, cause: &csv::Error) -> Error {
    let place = cause.position().map_or(path.to_string(), |position| format!("{path}:{}", position.line()));
    match cause.kind() {
        csv::ErrorKind::Utf8 { .. } => Error::bad_input(place, "this is not UTF-8 text", "save the file as CSV in UTF-8"),
        _ => Error::bad_input(place, format!("the CSV file cannot be read: {cause}"), "export it again as CSV in UTF-8"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_in_the_line_where_they_begin() {
        for end in ["\n", "\r\n"] {
            let text = ["prompt,completion", "a,b", "\"c", "d\",e", "", "f,g", ""].join(end);
            let lines: Vec<usize> = rows("t.csv", text.as_bytes()).unwrap().into_iter().map(|(line, _)| line).collect();
            assert_eq!(lines, [2, 3, 6], "{end:?}");
        }
    }
}
