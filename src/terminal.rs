//! What the program says: the one place where text leaves for standard error and standard output.
//!
//! Two laws hold here, and only here can they be broken:
//!
//! * **Reports may be lost.** A pipe whose reader has gone, a log on a full disk: [`say`] and [`report`] then do nothing, and the work
//!   goes on. Where the output is what was asked for, [`print()`] gives the error.
//! * **Files do not drive the terminal.** Names, templates, messages and generated text come from strangers and may hold control
//!   characters. All but line ends and tabs are written as escapes, `\u{1b}`, as a person would type them in Rust; in JSON as `\u001b`,
//!   which a program reads as the character itself.
//!
//! `println!` and its kin panic where they cannot write; lints forbid them in the library and in the tool.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};

use serde_json::Value;

/// A word as a shell wants it.
pub fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./=,:@+\\".contains(character);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// An option of `train` with its value, as it stands on a command line; `key` as recipes write it.
pub fn option(key: &str, value: &str) -> String {
    format!("--{} {}", key.replace('_', "-"), quoted(value))
}

/// A number of seconds as people say it.
pub fn duration(seconds: f64) -> String {
    match seconds {
        short if short < 90.0 => format!("{short:.0} s"),
        minutes if minutes < 90.0 * 60.0 => format!("{:.0} min", minutes / 60.0),
        hours if hours < 48.0 * 3600.0 => format!("{:.1} h", hours / 3600.0),
        days => format!("{:.1} days", days / 86_400.0),
    }
}

/// Lines of cells as a table, the first column to the left, the others to the right.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(at, (cell, width))| if at == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") });
        let line: Vec<String> = cells.collect();
        text += line.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// Whether a terminal obeys the character instead of showing it: the control characters of ASCII and Latin-1, and those that reverse
/// the direction of the text around them. Line ends and tabs are harmless.
fn commands(character: char) -> bool {
    let reverses = matches!(character, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    (character.is_control() && !matches!(character, '\n' | '\t')) || reverses
}

/// The text with every character that commands a terminal written as an escape.
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(commands) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match commands(character) {
            true => out.extend(character.escape_unicode()),
            false => out.push(character),
        }
    }
    Cow::Owned(out)
}

/// [`shown`], but colours, bold, dim, underlined and reversed text stay. For text that graftling coloured itself.
pub fn shown_coloured(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\x1b') {
        out += &shown(&rest[..at]);
        let length = colour(&rest[at..]).unwrap_or(0);
        out += &rest[at..at + length];
        if length == 0 {
            out += &shown("\x1b");
        }
        rest = &rest[at + length.max(1)..];
    }
    out + &shown(rest)
}

/// Bytes of the sequence that the text begins with, if it sets nothing but how text looks, and hides none.
fn colour(text: &str) -> Option<usize> {
    let (parameters, _) = text.strip_prefix("\x1b[")?.split_once('m')?;
    let harmless = |parameter: &str| {
        matches!(parameter, "" | "0" | "1" | "2" | "3" | "4" | "7" | "22" | "23" | "24" | "27")
            || matches!(parameter.parse::<u32>(), Ok(31..=37 | 39 | 91..=97))
    };
    parameters.split(';').all(harmless).then_some(parameters.len() + 3)
}

/// Whether a stream shows colours: a terminal, and nobody has asked for none.
pub fn has_colour(stream: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|kind| kind != "dumb")
}

/// Writes a line, or several, to standard error. If nobody can read it, the work goes on all the same.
pub fn say(text: &str) {
    write_lost(&mut std::io::stderr(), &format!("{text}\n"));
}

/// Writes to standard output what is a report and not the product: as [`say`], it may be lost.
pub fn report(text: &str) {
    let mut out = std::io::stdout().lock();
    write_lost(&mut out, text);
    let _ = out.flush();
}

/// In one piece, so that the lines of several processes do not mix.
fn write_lost(stream: &mut impl Write, text: &str) {
    let _ = stream.write_all(shown(text).as_bytes());
}

/// Writes to standard output.
///
/// # Errors
/// Those of the stream: a reader that has gone (`BrokenPipe`), a full disk.
pub fn print(text: &str) -> std::io::Result<()> {
    print_as_it_is(&shown(text))
}

/// [`print()`], for text that graftling coloured itself; what in it comes from files went through [`shown`] before.
///
/// # Errors
/// As [`print()`].
pub fn print_coloured(text: &str) -> std::io::Result<()> {
    print_as_it_is(&shown_coloured(text))
}

/// Writes one JSON document, for people and programs, to standard output.
///
/// # Errors
/// As [`print()`].
pub fn print_json(document: &Value) -> std::io::Result<()> {
    print_as_it_is(&json(document))
}

/// The document with a line end. What JSON does not escape by itself can stand in its strings only, where an escape means the same.
fn json(document: &Value) -> String {
    let mut out = String::new();
    for character in format!("{document:#}\n").chars() {
        match commands(character) {
            true => out += &format!("\\u{:04x}", u32::from(character)),
            false => out.push(character),
        }
    }
    out
}

fn print_as_it_is(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Standard error as [`say`] writes it, for libraries that want a writer. It takes everything.
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        write_lost(&mut std::io::stderr(), &String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_are_said_as_people_do() {
        assert_eq!([3.2, 89.0, 100.0, 3600.0 * 2.0, 86_400.0 * 3.0].map(duration), ["3 s", "89 s", "2 min", "2.0 h", "3.0 days"]);
    }

    #[test]
    fn what_commands_a_terminal_is_shown_and_all_else_stays() {
        let plain = "Zürich, 東京, 👩‍🔧\n\tשלום ⟦⟧";
        assert!(matches!(shown(plain), Cow::Borrowed(text) if text == plain));
        assert_eq!(shown("a\x1b[2Jb\rc\u{9b}d\u{7f}\u{202e}\0"), r"a\u{1b}[2Jb\u{d}c\u{9b}d\u{7f}\u{202e}\u{0}");
    }

    #[test]
    fn colours_stay_where_they_are_ours_and_nothing_else_does() {
        let ours = "\x1b[1;32mgreen\x1b[0m \x1b[2mdim\x1b[0m \x1b[7m<s>\x1b[27m";
        assert_eq!(shown_coloured(ours), ours);
        for (raw, safe) in [
            ("\x1b[8mhidden", r"\u{1b}[8mhidden"),
            ("\x1b[30mblack", r"\u{1b}[30mblack"),
            ("\x1b[2J\x1b[1mx", "\\u{1b}[2J\x1b[1mx"),
            ("\x1b]0;title\x07m", r"\u{1b}]0;title\u{7}m"),
            ("end\x1b", r"end\u{1b}"),
        ] {
            assert_eq!(shown_coloured(raw), safe);
        }
    }

    #[test]
    fn json_stays_the_same_document() {
        let document = json!({ "te\u{9b}xt": "a\x1b[2J\u{7f}\u{202e}\n東" });
        let text = json(&document);
        assert!(!text.contains(commands), "{text:?}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), document);
    }
}
