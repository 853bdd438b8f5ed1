//! What Hugging Face chat templates may call beside plain Jinja: `raise_exception`, `strftime_now`, the filters of
//! `template_filters`, the methods of `string_methods`, and values printed as Python prints them.
//!
//! Behaviour matched: `transformers.utils.chat_template_utils`.

use std::collections::BTreeMap;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};

use super::{python_containers, python_values, string_methods, template_filters};

/// Begins the message of an error that the template itself raised.
pub(super) const RAISED: &str = "raise_exception: ";

/// Adds everything to `environment`. `now`: seconds since 1970, UTC.
pub(super) fn install(environment: &mut Environment<'static>, now: i64) {
    environment.set_unknown_method_callback(string_methods::call);
    environment.set_formatter(python_output);
    template_filters::install(environment);
    environment.add_function("namespace", namespace);
    environment.add_function("range", python_containers::range);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
    });
    environment.add_function("strftime_now", move |format: String| strftime(&format, now));
}

/// `str(value)`, as Jinja2 prints.
fn python_output(output: &mut Output, state: &State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            output.write_str(&python_values::str(value)?).map_err(Error::from)
        }
        _ => minijinja::escape_formatter(output, state, value),
    }
}

/// A namespace with the values of a dictionary, of keywords, or both.
fn namespace(options: &[Value]) -> Result<Value, Error> {
    let (given, named): (&[Value], Kwargs) = minijinja::value::from_args(options)?;
    let mut values: Vec<(Value, Value)> = Vec::new();
    for map in given {
        for key in map.try_iter()? {
            values.push((key.clone(), map.get_item(&key)?));
        }
    }
    for name in named.args() {
        values.push((Value::from(name), named.get(name)?));
    }
    named.assert_all_used()?;
    minijinja::functions::namespace(Some(values.into_iter().collect::<BTreeMap<_, _>>().into()))
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
