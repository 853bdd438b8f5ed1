//! The bytes of a data file: no more of them than a memory holds, and an early end where they are no records.
//!
//! A file may say that it has a terabyte and hold none of it, and a gzipped file may unpack to as much. What is read is judged as it
//! comes: text has no NUL bytes, and no line is longer than the longest record.

use std::io::{self, Read};
use std::path::Path;

use crate::data::record::{KINDS, LONGEST};
use crate::formats::open;
use crate::{Error, Result};

/// Most bytes of a file, unpacked.
const MOST: u64 = 8 << 30;
/// Text repeats itself, so gzip makes it up to some ten times smaller; what it makes smaller by more than this is no text.
const MOST_PACKED: u64 = 200;
/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// All bytes of the file at `path`, unpacked if it is gzipped, and whether it was.
///
/// # Errors
/// It cannot be read, is longer than [`MOST`], is damaged, or is no text (nor Parquet).
pub(super) fn read(path: &Path) -> Result<(Vec<u8>, bool)> {
    let name = path.display().to_string();
    let proposal = format!("a data file has {KINDS}");
    let file = open::file(path, &proposal)?;
    let unreadable = |cause: io::Error| Error::bad_input(&name, format!("cannot be read: {cause}"), &proposal);
    let length = file.metadata().map_err(unreadable)?.len();
    let mut head = Vec::new();
    (&file).take(2).read_to_end(&mut head).map_err(unreadable)?;
    io::Seek::rewind(&mut &file).map_err(unreadable)?;
    if length > MOST {
        return Err(too_long(&name, "the file has"));
    }
    if head != b"\x1f\x8b" {
        return Ok((pieces(&name, file, MOST, unreadable)?, false));
    }
    let damaged =
        |cause: io::Error| Error::bad_input(&name, format!("the gzip file is damaged: {cause}"), "download or make it again");
    let most = length.saturating_mul(MOST_PACKED).saturating_add(64 << 20).min(MOST);
    let unpacking = flate2::read::MultiGzDecoder::new(io::BufReader::new(file));
    Ok((pieces(&name, unpacking, most, damaged)?, true))
}

fn pieces(name: &str, mut source: impl Read, most: u64, unreadable: impl Fn(io::Error) -> Error) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Where the last line begins, and how many lines there are before it.
    let (mut line, mut lines, mut form) = (0, 0, Form::Unknown);
    loop {
        let before = bytes.len();
        bytes.try_reserve(PIECE).map_err(|_| too_long(name, "the memory holds less than the file, which has"))?;
        if (&mut source).take(PIECE as u64).read_to_end(&mut bytes).map_err(&unreadable)? == 0 {
            return Ok(bytes);
        }
        if bytes.len() as u64 > most {
            return Err(too_long(name, "it unpacks to"));
        }
        if form == Form::Unknown {
            // What it is, its first bytes say; it is refused by that name.
            if super::foreign(&bytes).is_some() {
                return Ok(bytes);
            }
            form = Form::of(&bytes);
        }
        let piece = &bytes[before..];
        if form == Form::Binary {
            continue;
        }
        if let Some(at) = piece.iter().position(|byte| *byte == 0) {
            let line = lines + 1 + piece[..at].iter().filter(|byte| **byte == b'\n').count();
            let problem = "there is a NUL byte, which text does not have: the file is damaged, or no text";
            return Err(Error::bad_input(format!("{name}:{line}"), problem, "download or write it again, as UTF-8"));
        }
        lines += piece.iter().filter(|byte| **byte == b'\n').count();
        if let Some(last) = piece.iter().rposition(|byte| *byte == b'\n') {
            line = before + last + 1;
        }
        if form == Form::Lines && bytes.len() - line > LONGEST + PIECE {
            let problem = format!("a line has more than {} MiB, which is the longest record that is read", LONGEST >> 20);
            let proposal = "cut it into several records: a model is trained on --max-length tokens at a time";
            return Err(Error::bad_input(format!("{name}:{}", lines + 1), problem, proposal));
        }
    }
}

/// What can be expected of the bytes that follow.
#[derive(PartialEq, Eq)]
enum Form {
    Unknown,
    /// Parquet.
    Binary,
    /// One list, which may stand on one line.
    List,
    Lines,
}

impl Form {
    fn of(head: &[u8]) -> Self {
        match head.iter().find(|byte| !byte.is_ascii_whitespace()) {
            _ if head.starts_with(b"PAR1") => Self::Binary,
            None => Self::Unknown,
            Some(b'[') => Self::List,
            Some(_) => Self::Lines,
        }
    }
}

fn too_long(name: &str, what: &str) -> Error {
    let problem = format!("{what} more than can be read at once ({} GiB, or {MOST_PACKED} times its packed length)", MOST >> 30);
    Error::bad_input(name, problem, "give the part that you want to train on, as one file or several")
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn refusal(fill: impl FnOnce(&File)) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        fill(file.as_file());
        match read(file.path()) {
            Ok((bytes, _)) => panic!("{} bytes", bytes.len()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn files_that_are_no_records_are_refused_before_they_fill_the_memory() {
        use std::io::Write;
        let line = b"{\"text\": \"a\"}\n";
        // Holes take no place on the disk.
        assert!(refusal(|file| file.set_len(1 << 40).unwrap()).contains("more than can be read"));
        assert!(refusal(|file| file.set_len(4 << 30).unwrap()).contains(":1: there is a NUL byte"));
        let after_a_line = refusal(|mut file| {
            file.write_all(line).unwrap();
            file.set_len(4 << 30).unwrap();
        });
        assert!(after_a_line.contains(":2: there is a NUL byte"), "{after_a_line}");
        let endless = refusal(|mut file| {
            file.write_all(line).unwrap();
            file.write_all(&vec![b'x'; 18 << 20]).unwrap();
        });
        assert!(endless.contains(":2: a line has more than 16 MiB"), "{endless}");
        let bomb = refusal(|file| {
            let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::best());
            (0..300).for_each(|_| packed.write_all(&vec![b'\n'; 1 << 20]).unwrap());
            packed.finish().unwrap();
        });
        assert!(bomb.contains("unpacks to more"), "{bomb}");
    }

    #[test]
    fn a_list_may_stand_on_one_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let record = format!("{{\"text\": \"{}\"}}", "a".repeat(10 << 20));
        let list = format!("[{record},{record}]");
        std::fs::write(file.path(), &list).unwrap();
        assert_eq!(read(file.path()).unwrap(), (list.into_bytes(), false));
    }
}
