//! What Hugging Face chat templates may call beside plain Jinja: `raise_exception`, `strftime_now`, `tojson`, methods of
//! Python's strings and dictionaries, Python's spelling of `None`, `True` and `False`, and the `generation` tag.
//!
//! Behaviour matched: `transformers.utils.chat_template_utils`.

use minijinja::value::{Kwargs, ViaDeserialize};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};

/// Begins the message of an error that the template itself raised.
pub(super) const RAISED: &str = "raise_exception: ";

/// Adds everything to `environment`. `now`: seconds since 1970, UTC.
pub(super) fn install(environment: &mut Environment<'static>, now: i64) {
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(python_output);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
    });
    environment.add_function("strftime_now", move |format: String| strftime(&format, now));
}

fn python_output(output: &mut Output, state: &State, value: &Value) -> Result<(), Error> {
    let written = match (value.is_none(), value.kind(), value.is_true()) {
        (true, _, _) => output.write_str("None"),
        (_, minijinja::value::ValueKind::Bool, true) => output.write_str("True"),
        (_, minijinja::value::ValueKind::Bool, false) => output.write_str("False"),
        _ => return minijinja::escape_formatter(output, state, value),
    };
    written.map_err(Error::from)
}

/// `json.dumps(value, ensure_ascii=False, indent=None)`: a space after `:` and `,`, and no escaping for HTML.
fn tojson(value: ViaDeserialize<serde_json::Value>, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let writer = JsonWriter {
        indent: indent.map(|width| width.min(64)),
        ascii: ensure_ascii.unwrap_or(false),
        sorted: sort_keys.unwrap_or(false),
    };
    let mut out = String::new();
    writer.write(&value, 0, &mut out);
    Ok(Value::from_safe_string(out))
}

struct JsonWriter {
    indent: Option<usize>,
    ascii: bool,
    sorted: bool,
}

impl JsonWriter {
    fn write(&self, value: &serde_json::Value, depth: usize, out: &mut String) {
        match value {
            serde_json::Value::Array(items) => self.block('[', ']', items.len(), depth, out, |index, out| {
                self.write(&items[index], depth + 1, out);
            }),
            serde_json::Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                if self.sorted {
                    entries.sort_by_key(|(key, _)| *key);
                }
                self.block('{', '}', entries.len(), depth, out, |index, out| {
                    self.string(entries[index].0, out);
                    out.push_str(": ");
                    self.write(entries[index].1, depth + 1, out);
                });
            }
            serde_json::Value::String(text) => self.string(text, out),
            other => out.push_str(&other.to_string()),
        }
    }

    fn block(&self, open: char, close: char, count: usize, depth: usize, out: &mut String, item: impl Fn(usize, &mut String)) {
        let line = |depth: usize, out: &mut String| {
            if let Some(width) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', width * depth));
            }
        };
        out.push(open);
        for index in 0..count {
            if index > 0 {
                out.push_str(if self.indent.is_some() { "," } else { ", " });
            }
            line(depth + 1, out);
            item(index, out);
        }
        if count > 0 {
            line(depth, out);
        }
        out.push(close);
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
                wide if self.ascii && !wide.is_ascii() => {
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

/// Hugging Face's `{% generation %}` ... `{% endgeneration %}` marks what the assistant wrote. It prints nothing itself;
/// written as a condition that always holds, it is plain Jinja on the same line.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start + 2..].find("%}") else { break };
        let end = start + 2 + length;
        let inside = &rest[start + 2..end];
        let name = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        out.push_str(&rest[..start + 2]);
        match name {
            "generation" | "endgeneration" => {
                let plain = if name == "generation" { " if true " } else { " endif " };
                out.extend(inside.chars().next().filter(|c| matches!(c, '-' | '+')));
                out.push_str(plain);
                out.extend(inside.chars().last().filter(|c| matches!(c, '-' | '+')));
            }
            _ => out.push_str(inside),
        }
        rest = &rest[end..];
    }
    out + rest
}

const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// C's `strftime` in the English locale, for the time `now` in UTC.
fn strftime(format: &str, now: i64) -> Result<String, Error> {
    let (days, seconds) = (now.div_euclid(86_400), now.rem_euclid(86_400));
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let weekday = DAYS[(days + 4).rem_euclid(7) as usize];
    let month_name = MONTHS[month as usize - 1];
    let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut code = characters.next();
        let unpadded = code == Some('-');
        if unpadded {
            code = characters.next();
        }
        let two = |number: i64| if unpadded { number.to_string() } else { format!("{number:02}") };
        out.push_str(&match code {
            Some('Y') => year.to_string(),
            Some('y') => two(year.rem_euclid(100)),
            Some('m') => two(month),
            Some('d') => two(day),
            Some('e') => format!("{day:2}"),
            Some('H') => two(hour),
            Some('I') => two(twelve),
            Some('M') => two(minute),
            Some('S') => two(second),
            Some('p') => (if hour < 12 { "AM" } else { "PM" }).to_string(),
            Some('B') => month_name.to_string(),
            Some('b' | 'h') => month_name[..3].to_string(),
            Some('A') => weekday.to_string(),
            Some('a') => weekday[..3].to_string(),
            Some('j') => {
                let of_year = days - days_from_civil(year, 1, 1) + 1;
                if unpadded { of_year.to_string() } else { format!("{of_year:03}") }
            }
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_string(),
            Some('z') => "+0000".to_string(),
            Some('%') => "%".to_string(),
            other => {
                let code = other.map(String::from).unwrap_or_default();
                let message = format!("strftime_now: `%{code}` in \"{format}\" is not supported");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        });
    }
    Ok(out)
}

/// Year, month 1..=12 and day 1..=31 of a day counted from 1970-01-01, by the calendar's 400-year cycle of 146097 days.
fn civil_date(days: i64) -> (i64, i64, i64) {
    // Each estimate is at most one too small or too large; the true year brackets the day.
    let mut year = 1970 + days.div_euclid(366);
    while days_from_civil(year + 1, 1, 1) <= days {
        year += 1;
    }
    let month = (1..=12).rev().find(|&month| days_from_civil(year, month, 1) <= days).unwrap_or(1);
    (year, month, days - days_from_civil(year, month, 1) + 1)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let before = year - 1;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let in_year: i64 = lengths[..month as usize - 1].iter().sum();
    let to_year = before * 365 + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400);
    to_year - 719_162 + in_year + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strftime_knows_the_calendar() {
        // date -u -d @1709164800: Thu Feb 29 00:00:00 UTC 2024, day 60 of the year.
        assert_eq!(strftime("%d %b %Y %A %j %H:%M:%S %-I%p", 1_709_164_800).unwrap(), "29 Feb 2024 Thursday 060 00:00:00 12AM");
        assert_eq!(strftime("%F %T", 951_782_399).unwrap(), "2000-02-28 23:59:59");
        assert_eq!(strftime("%-d %B %y", 4_102_444_800).unwrap(), "1 January 00");
        assert_eq!(strftime("%F", -1).unwrap(), "1969-12-31");
        assert!(strftime("%Q", 0).is_err());
        for days in -200_000..200_000 {
            let (year, month, day) = civil_date(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }

    #[test]
    fn generation_tags_keep_their_white_space_control() {
        let source = "a\n{%- generation -%}\n b {% endgeneration %} {% if x %}c{% endif %} {%";
        let plain = "a\n{%- if true -%}\n b {% endif %} {% if x %}c{% endif %} {%";
        assert_eq!(without_generation_tags(source), plain);
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let mut environment = Environment::new();
        install(&mut environment, 0);
        let value = serde_json::json!({"b": ["ä<&'\"\n", 1, 2.5, null, true], "a": {}});
        let render = |source: &str| environment.render_str(source, minijinja::context! { value }).unwrap();
        assert_eq!(render("{{ value | tojson }}"), r#"{"b": ["ä<&'\"\n", 1, 2.5, null, true], "a": {}}"#);
        assert_eq!(render("{{ value.b[:2] | tojson(indent=1, ensure_ascii=true) }}"), "[\n \"\\u00e4<&'\\\"\\n\",\n 1\n]");
        assert_eq!(render("{{ value | tojson(sort_keys=true) }}"), r#"{"a": {}, "b": ["ä<&'\"\n", 1, 2.5, null, true]}"#);
        assert_eq!(render("{{ true }}{{ none }}{{ 1 }}{{ missing }}"), "TrueNone1");
    }
}
