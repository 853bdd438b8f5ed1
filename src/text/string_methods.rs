//! Methods of Python's strings, lists and dictionaries, as chat templates call them.
//!
//! A method that is not here is an error that names it. Positions are those of characters, as in Python.

use std::ops::Range;

use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::{python_containers, python_values};

/// Characters that `strip` and `split` take for white space: those of Unicode, and four more.
fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\x1c'..='\x1f')
}

fn failed(problem: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}

/// Calls `method` of `value`; [`minijinja`] asks for those that it has not itself.
///
/// # Errors
/// There is no such method, or the arguments do not suit it.
pub(super) fn call(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => of_string(value.as_str().unwrap_or_default(), method, args),
        ValueKind::Map if method == "copy" => {
            let () = from_args(args)?;
            Ok(value.clone())
        }
        ValueKind::Map if matches!(method, "items" | "keys" | "values") => {
            let () = from_args(args)?;
            python_containers::view(value, method)
        }
        ValueKind::Seq | ValueKind::Iterable if method == "copy" => {
            let () = from_args(args)?;
            Ok(value.try_iter()?.collect())
        }
        ValueKind::Seq | ValueKind::Iterable if method == "index" => {
            let (what,): (&Value,) = from_args(args)?;
            value.try_iter()?.position(|item| item == *what).map(Value::from).ok_or_else(|| failed("the item is not in the list"))
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn of_string(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(answer) = question(text, method) {
        let () = from_args(args)?;
        return Ok(Value::from(answer));
    }
    match method {
        "upper" | "lower" | "title" | "capitalize" | "swapcase" | "casefold" => {
            let () = from_args(args)?;
            Ok(Value::from(cased(text, method)))
        }
        "strip" | "lstrip" | "rstrip" => {
            let (characters,): (Option<Value>,) = from_args(args)?;
            Ok(Value::from(stripped(text, method, &characters.unwrap_or_default())?))
        }
        "split" | "rsplit" => {
            let (given, named): (Rest<Value>, Kwargs) = from_args(args)?;
            let by: Option<Value> = named.get("sep")?;
            let most: Option<i64> = named.get("maxsplit")?;
            named.assert_all_used()?;
            if given.len() > 2 {
                return Err(Error::from(ErrorKind::TooManyArguments));
            }
            let by = given.first().cloned().or(by).filter(|by| !by.is_none());
            let most = given.get(1).map(|most| i64::try_from(most.clone())).transpose()?.or(most).unwrap_or(-1);
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let pieces = match by {
                None => words(text, most, method == "rsplit"),
                Some(by) => {
                    let by =
                        by.as_str().filter(|by| !by.is_empty()).ok_or_else(|| failed("the separator is no text, or empty"))?;
                    match method {
                        "split" => text.splitn(most.saturating_add(1), by).collect(),
                        _ => text.rsplitn(most.saturating_add(1), by).collect::<Vec<_>>().into_iter().rev().collect(),
                    }
                }
            };
            Ok(pieces.into_iter().map(Value::from).collect())
        }
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(args)?;
            Ok(lines(text, keep.unwrap_or(false)).into_iter().map(Value::from).collect())
        }
        "partition" | "rpartition" => {
            let (by,): (&str,) = from_args(args)?;
            if by.is_empty() {
                return Err(failed("the separator is empty"));
            }
            let found = if method == "partition" { text.find(by) } else { text.rfind(by) };
            let parts = match found {
                Some(at) => [&text[..at], by, &text[at + by.len()..]],
                None if method == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Ok(python_containers::tuple(parts.into_iter().map(Value::from).collect()))
        }
        "startswith" | "endswith" => {
            let (what, from, to): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
            let part = &text[range(text, from, to)];
            let matches = |what: &Value| -> Result<bool, Error> {
                let what = what.as_str().ok_or_else(|| failed(format!("{method} takes a text or a tuple of texts")))?;
                Ok(if method == "startswith" { part.starts_with(what) } else { part.ends_with(what) })
            };
            if what.kind() != ValueKind::Seq {
                return matches(what).map(Value::from);
            }
            for one in what.try_iter()? {
                if matches(&one)? {
                    return Ok(Value::from(true));
                }
            }
            Ok(Value::from(false))
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let (what, from, to): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let range = range(text, from, to);
            let part = &text[range.clone()];
            if method == "count" {
                return Ok(Value::from(part.matches(what).count()));
            }
            let found = if method.starts_with('r') { part.rfind(what) } else { part.find(what) };
            match found {
                Some(at) => Ok(Value::from(text[..range.start + at].chars().count())),
                None if method.ends_with("find") => Ok(Value::from(-1)),
                None => Err(failed("the text is not found")),
            }
        }
        "replace" => {
            let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
            Ok(Value::from(match count.and_then(|count| usize::try_from(count).ok()) {
                Some(count) => text.replacen(old, new, count),
                None => text.replace(old, new),
            }))
        }
        "removeprefix" => {
            let (what,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(what).unwrap_or(text)))
        }
        "removesuffix" => {
            let (what,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(what).unwrap_or(text)))
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            let mut out = String::new();
            for (index, item) in items.try_iter()?.enumerate() {
                out.push_str(if index > 0 { text } else { "" });
                out.push_str(item.as_str().ok_or_else(|| failed(format!("join: item {index} is no text")))?);
            }
            Ok(Value::from(out))
        }
        "center" | "ljust" | "rjust" | "zfill" => {
            let (width, fill): (usize, Option<char>) = from_args(args)?;
            Ok(Value::from(padded(text, method, width, fill)?))
        }
        "format" => minijinja::format_filter(minijinja::FormatStyle::StrFormat, text, args).map(Value::from),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// The methods that ask what kind of text it is. No text has a kind, except that it is ASCII.
fn question(text: &str, method: &str) -> Option<bool> {
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    let cased = |test: fn(char) -> bool, not: fn(char) -> bool| text.chars().any(test) && !text.chars().any(not);
    Some(match method {
        "isalpha" => all(char::is_alphabetic),
        "isdigit" | "isdecimal" => all(|character| character.is_ascii_digit() || character.is_ascii_digit()),
        "isnumeric" => all(char::is_numeric),
        "isalnum" => all(char::is_alphanumeric),
        "isspace" => all(is_space),
        "isascii" => text.is_ascii(),
        "isupper" => cased(char::is_uppercase, char::is_lowercase),
        "islower" => cased(char::is_lowercase, char::is_uppercase),
        _ => return None,
    })
}

/// The text in another case. `title` begins a word after every character that is no letter.
pub(super) fn cased(text: &str, method: &str) -> String {
    match method {
        "upper" => text.to_uppercase(),
        "lower" | "casefold" => text.to_lowercase(),
        "swapcase" => text
            .chars()
            .flat_map(|c| if c.is_uppercase() { c.to_lowercase().collect::<Vec<_>>() } else { c.to_uppercase().collect() })
            .collect(),
        "capitalize" => {
            let mut characters = text.chars();
            let first: String = characters.next().into_iter().flat_map(char::to_uppercase).collect();
            first + &characters.as_str().to_lowercase()
        }
        _ => {
            let mut inside = false;
            let mut out = String::with_capacity(text.len());
            for character in text.chars() {
                match inside {
                    true => out.extend(character.to_lowercase()),
                    false => out.extend(character.to_uppercase()),
                }
                inside = character.is_alphabetic();
            }
            out
        }
    }
}

/// `strip`, `lstrip` or `rstrip`; `characters`: undefined or None for white space, or those to take off.
pub(super) fn stripped<'a>(text: &'a str, method: &str, characters: &Value) -> Result<&'a str, Error> {
    let set: Option<Vec<char>> = match characters.as_str() {
        Some(characters) => Some(characters.chars().collect()),
        None if characters.is_none() || characters.is_undefined() => None,
        None => return Err(failed(format!("{method} takes a text"))),
    };
    let goes = |character: char| set.as_ref().map_or_else(|| is_space(character), |set| set.contains(&character));
    let text = if method == "rstrip" { text } else { text.trim_start_matches(goes) };
    Ok(if method == "lstrip" { text } else { text.trim_end_matches(goes) })
}

/// The words of a text, at most so many cut off; the rest keeps its white space inside.
fn words(text: &str, most: usize, from_the_end: bool) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = if from_the_end { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) };
    while !rest.is_empty() && words.len() < most {
        let cut = if from_the_end { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = cut else { break };
        let width = rest[at..].chars().next().map_or(0, char::len_utf8);
        let (before, after) = (&rest[..at], &rest[at + width..]);
        match from_the_end {
            true => {
                words.push(after);
                rest = before.trim_end_matches(is_space);
            }
            false => {
                words.push(before);
                rest = after.trim_start_matches(is_space);
            }
        }
    }
    if !rest.is_empty() {
        words.push(if from_the_end { rest.trim_start_matches(is_space) } else { rest.trim_end_matches(is_space) });
        // Where the count stopped it, the far end keeps its white space, as in Python.
        if words.len() > most {
            words.pop();
            words.push(rest);
        }
    }
    if from_the_end {
        words.reverse();
    }
    words
}

/// The lines of a text, at all the line ends that Python knows.
fn lines(text: &str, keep: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut start = 0;
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if !matches!(character, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}') {
            continue;
        }
        let mut end = at + character.len_utf8();
        if character == '\r' && characters.next_if(|(_, next)| *next == '\n').is_some() {
            end += 1;
        }
        lines.push(&text[start..if keep { end } else { at }]);
        start = end;
    }
    if start < text.len() {
        lines.push(&text[start..]);
    }
    lines
}

/// The bytes of the characters `from..to`, which count from the end where they are negative.
fn range(text: &str, from: Option<i64>, to: Option<i64>) -> Range<usize> {
    if from.is_none() && to.is_none() {
        return 0..text.len();
    }
    let count = text.chars().count() as i64;
    let place = |at: i64| (if at < 0 { at + count } else { at }).clamp(0, count) as usize;
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    let (from, to) = (byte(place(from.unwrap_or(0))), byte(place(to.unwrap_or(count))));
    from..to.max(from)
}

/// A text made `width` wide with `fill`, or white space.
///
/// # Errors
/// The width is not one that a text has.
pub(super) fn padded(text: &str, method: &str, width: usize, fill: Option<char>) -> Result<String, Error> {
    const WIDEST: usize = 1 << 16;
    if width > WIDEST {
        return Err(failed(format!("{method}: a width of {width} is too much")));
    }
    let missing = width.saturating_sub(text.chars().count());
    let fill = fill.unwrap_or(if method == "zfill" { '0' } else { ' ' });
    let many = |count: usize| String::from_iter(std::iter::repeat_n(fill, count));
    Ok(match method {
        "ljust" => text.to_string() + &many(missing),
        "rjust" => many(missing) + text,
        "center" => {
            // Python puts the odd one to the left where the width is odd.
            let left = missing / 2 + (missing & width & 1);
            many(left) + text + &many(missing - left)
        }
        _ => match text.strip_prefix(['+', '-']) {
            Some(rest) => text[..1].to_string() + &many(missing) + rest,
            None => many(missing) + text,
        },
    })
}

/// `format % values`, Python's older way to put values into a text. `tuple`: `values` are several, and not one that is a list.
///
/// # Errors
/// A conversion that is not known, or other values than it takes.
pub(super) fn percent(format: &str, values: &Value, tuple: bool) -> Result<String, Error> {
    let list: Vec<Value> = if tuple { values.try_iter()?.collect() } else { vec![values.clone()] };
    let (mut out, mut next, mut rest) = (String::new(), 0, format);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let key = match rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            Some((key, after)) => {
                rest = after;
                Some(key)
            }
            None => None,
        };
        let length = rest.find(|c: char| c.is_ascii_alphabetic() || c == '%').ok_or_else(|| failed("incomplete format"))?;
        let (options, conversion) = (&rest[..length], rest[length..].chars().next().unwrap_or('%'));
        rest = &rest[length + 1..];
        if conversion == '%' {
            out.push('%');
            continue;
        }
        let value = match key {
            Some(key) => values.get_attr(key)?,
            None => {
                next += 1;
                list.get(next - 1).cloned().ok_or_else(|| failed("not enough arguments for format string"))?
            }
        };
        out.push_str(&converted(options, conversion, &value)?);
    }
    if next < list.len() && values.kind() != ValueKind::Map {
        return Err(failed("not all arguments converted during string formatting"));
    }
    Ok(out + rest)
}

fn converted(options: &str, conversion: char, value: &Value) -> Result<String, Error> {
    let flags = options.len() - options.trim_start_matches(['-', '0', '+', ' ', '#']).len();
    let (flags, size) = options.split_at(flags);
    let (width, precision) = size.split_once('.').map_or((size, None), |(width, precision)| (width, Some(precision)));
    let size = |text: &str| -> Result<usize, Error> {
        if text.is_empty() {
            Ok(0)
        } else {
            text.parse().map_err(|_| failed(format!("`%{options}{conversion}` is not supported")))
        }
    };
    let (width, precision) = (size(width)?, precision.map(size).transpose()?);
    let number = || f64::try_from(value.clone()).map_err(|_| failed(format!("%{conversion} format: a number is required")));
    let text = match conversion {
        's' | 'r' => {
            let text = if conversion == 's' { python_values::str(value)? } else { python_values::repr(value)? };
            precision.map_or(text.clone(), |most| text.chars().take(most).collect())
        }
        'd' | 'i' | 'u' => format!("{:.0}", number()?.trunc()),
        'f' | 'F' => format!("{:.*}", precision.unwrap_or(6).min(300), number()?),
        'x' | 'X' | 'o' if value.is_integer() => {
            let whole = i64::try_from(value.clone())?;
            let (sign, size) = (if whole < 0 { "-" } else { "" }, whole.unsigned_abs());
            sign.to_string()
                + &match conversion {
                    'x' => format!("{size:x}"),
                    'X' => format!("{size:X}"),
                    _ => format!("{size:o}"),
                }
        }
        _ => return Err(failed(format!("`%{options}{conversion}` is not supported"))),
    };
    let numeric = !matches!(conversion, 's' | 'r');
    let text = match text.starts_with('-') {
        false if numeric && flags.contains('+') => "+".to_string() + &text,
        false if numeric && flags.contains(' ') => " ".to_string() + &text,
        _ => text,
    };
    match (flags.contains('-'), numeric && flags.contains('0')) {
        (true, _) => padded(&text, "ljust", width, None),
        (false, true) => padded(&text, "zfill", width, None),
        (false, false) => padded(&text, "rjust", width, None),
    }
}
