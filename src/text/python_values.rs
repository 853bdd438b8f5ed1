//! Values as Python writes them: `str`, `repr` and `json.dumps`, for what a template prints.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::python_containers::Container;

/// How deep a value may be nested. Python stops at about a thousand.
const DEEPEST: usize = 200;

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, "the value is nested too deeply")
}

/// `str(value)`.
///
/// # Errors
/// The value is nested too deeply.
pub(super) fn str(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_string()),
        None if value.is_undefined() => Ok(String::new()),
        None => repr(value),
    }
}

/// `repr(value)`.
///
/// # Errors
/// The value is nested too deeply.
pub(super) fn repr(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    write_repr(value, 0, &mut out)?;
    Ok(out)
}

fn write_repr(value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > DEEPEST {
        return Err(too_deep());
    }
    let container = value.downcast_object_ref::<Container>();
    if let Some(Container::Range { start, stop, step, .. }) = container {
        let step = if *step == 1 { String::new() } else { format!(", {step}") };
        out.push_str(&format!("range({start}, {stop}{step})"));
        return Ok(());
    }
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::String => string_repr(value.as_str().unwrap_or_default(), out),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = match container {
                Some(Container::Tuple(items)) => ("(".to_string(), if items.len() == 1 { ",)" } else { ")" }),
                Some(Container::View(name, _)) => (format!("{name}(["), "])"),
                _ => ("[".to_string(), "]"),
            };
            out.push_str(&open);
            for (index, item) in value.try_iter()?.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_repr(&item, depth + 1, out)?;
            }
            out.push_str(close);
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_repr(&key, depth + 1, out)?;
                out.push_str(": ");
                write_repr(&value.get_item(&key)?, depth + 1, out)?;
            }
            out.push('}');
        }
        // None, True and False; what else there is has no text in Python that anyone relies on.
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// A string in quotes: single ones, unless it has such and no double ones.
fn string_repr(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if character == quote => out.extend(['\\', quote]),
            '\0'..='\x1f' | '\x7f'..='\u{a0}' | '\u{ad}' => out.push_str(&format!("\\x{:02x}", character as u32)),
            '\u{2028}' | '\u{2029}' | '\u{200b}'..='\u{200f}' | '\u{e000}'..='\u{f8ff}' | '\u{feff}' => {
                out.push_str(&format!("\\u{:04x}", character as u32));
            }
            plain => out.push(plain),
        }
    }
    out.push(quote);
}

/// A number as Python writes it.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
}

/// The shortest digits that give the same number again, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_string();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_string();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = number.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// The options of `json.dumps`.
pub(super) struct Json {
    pub indent: Option<usize>,
    pub ascii: bool,
    pub sorted: bool,
    /// Between items, and between a key and its value.
    pub separators: (String, String),
}

impl Json {
    /// `json.dumps(value)`.
    ///
    /// # Errors
    /// A value that is no JSON, or nested too deeply.
    pub fn dumps(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.write(value, 0, &mut out)?;
        Ok(out)
    }

    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > DEEPEST {
            return Err(too_deep());
        }
        if let Some(Container::View(..) | Container::Range { .. }) = value.downcast_object_ref() {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {} is no JSON", repr(value)?)));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(match number(value).as_str() {
                "nan" => "NaN",
                "inf" => "Infinity",
                "-inf" => "-Infinity",
                plain => plain,
            }),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.block('[', ']', items.len(), depth, out, |index, out| self.write(&items[index], depth + 1, out))?;
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    entries.push((self.key(&key)?, value.get_item(&key)?));
                }
                if self.sorted {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.block('{', '}', entries.len(), depth, out, |index, out| {
                    self.string(&entries[index].0, out);
                    out.push_str(&self.separators.1);
                    self.write(&entries[index].1, depth + 1, out)
                })?;
            }
            other => return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {other} is no JSON"))),
        }
        Ok(())
    }

    fn key(&self, key: &Value) -> Result<String, Error> {
        match key.kind() {
            ValueKind::String => Ok(key.as_str().unwrap_or_default().to_string()),
            ValueKind::None => Ok("null".to_string()),
            ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_string()),
            ValueKind::Number => Ok(number(key)),
            other => Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: a key cannot be of type {other}"))),
        }
    }

    fn block(
        &self,
        open: char,
        close: char,
        count: usize,
        depth: usize,
        out: &mut String,
        item: impl Fn(usize, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |depth: usize, out: &mut String| {
            if let Some(width) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', width * depth));
            }
        };
        out.push(open);
        for index in 0..count {
            if index > 0 {
                out.push_str(&self.separators.0);
            }
            line(depth + 1, out);
            item(index, out)?;
        }
        if count > 0 {
            line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                control if control < ' ' => out.push_str(&format!("\\u{:04x}", control as u32)),
                wide if self.ascii && !(' '..='~').contains(&wide) => {
                    for unit in wide.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                plain => out.push(plain),
            }
        }
        out.push('"');
    }
}
