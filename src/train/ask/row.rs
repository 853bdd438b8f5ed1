//! What one row of the option table says, and everything that follows from it.
//!
//! ```text
//! /// Help text
//! name: Type, "VALUE", kind(...), check function, resumed word;
//! ```
//!
//! * `name` is the key of a recipe file; the option on the command line is the same in kebab case.
//! * `kind` is `required("what to give")`, `default(value, "why")`, `optional("what happens without")` or `switch`. A `default` and a
//!   `switch` (off unless given) have a value in [`TrainOptions`](super::options::TrainOptions), an `optional` one stays an `Option` there.
//! * `check` refuses values that are wrong whatever the model is; `any` refuses none.
//! * `resumed` says what a run that is continued may do: `same` is compared with the value of the run, `same_if_set` likewise once it
//!   is no longer the default (for options that came later than checkpoints), `derived` is compared by what follows from it (a file's
//!   content, a number of steps) in [`Prepared`](crate::train::prepare::Prepared), `free` may change.

use std::fmt::Display;

use serde::Serialize;

use crate::{Error, Result};

/// The table's macro: makes the struct of what the user wrote (every field optional) and of what the run is to do (complete).
macro_rules! option_rows {
    (
        $(#[$written_meta:meta])* $written:ident;
        $(#[$complete_meta:meta])* $complete:ident;
        $($heading:literal {
            $(
                $(#[doc = $help:literal])+
                $(#[arg($($arg:tt)*)])?
                $(#[serde($($serde:tt)*)])?
                $name:ident: $type:ty, $value:literal, $kind:ident $(($($detail:tt)*))?, check $check:expr, resumed $resumed:ident;
            )+
        })+
    ) => {
        $(#[$written_meta])*
        pub struct $written {
            $($(
                $(#[doc = $help])+
                #[arg(
                    long,
                    value_name = $value,
                    help_heading = $heading,
                    help = $crate::train::ask::row::help(&[$($help),+], &option_rows!(@default_text $kind $(($($detail)*))?)),
                    num_args = option_rows!(@arity $kind),
                    require_equals = option_rows!(@is_switch $kind),
                    hide_possible_values = option_rows!(@is_switch $kind),
                    default_missing_value = "true",
                )]
                $(#[arg($($arg)*)])?
                $(#[serde($($serde)*)])?
                pub $name: Option<$type>,
            )+)+
        }

        $(#[$complete_meta])*
        pub struct $complete {
            $($(
                $(#[doc = $help])+
                pub $name: option_rows!(@type $kind $type),
            )+)+
        }

        impl $written {
            /// `self`, with what it leaves open taken from `fallback`: the command line over the recipe file.
            pub fn or(self, fallback: Self) -> Self {
                Self { $($($name: self.$name.or(fallback.$name),)+)+ }
            }

            /// What each row of the table says, in its order.
            pub(super) fn rows() -> Vec<$crate::train::ask::row::Row> {
                vec![$($({
                    let (kind, default, why) = option_rows!(@row $kind $(($($detail)*))?);
                    $crate::train::ask::row::Row {
                        key: stringify!($name),
                        heading: $heading,
                        placeholder: $value,
                        help: $crate::train::ask::row::help(&[$($help),+], ""),
                        of: stringify!($type),
                        kind,
                        default,
                        why,
                    }
                }),+),+]
            }

            /// Fills in the defaults and checks every value by itself.
            fn complete(self) -> $crate::Result<$complete> {
                $($(
                    if let Some(value) = &self.$name {
                        let check: fn(&str, &$type) -> $crate::Result<()> = $check;
                        check(&$crate::train::ask::row::option_name(stringify!($name)), value)?;
                    }
                )+)+
                Ok($complete {
                    $($($name: option_rows!(@value self.$name, stringify!($name), $kind $(($($detail)*))?),)+)+
                })
            }
        }

        impl $complete {
            /// The values that a continued run must not change, by name, as JSON writes them: text compares equal after a round trip,
            /// which a number that went through decimals need not.
            fn unchanging(&self) -> std::collections::BTreeMap<String, String> {
                let mut values = std::collections::BTreeMap::new();
                $($(option_rows!(@resumed $resumed values, $name, self.$name);)+)+
                values
            }
        }
    };

    // A switch stands alone (`--resume`) or with its value (`--resume=false`).
    (@arity switch) => { 0..=1 };
    (@arity $other:ident) => { 1 };
    (@is_switch switch) => { true };
    (@is_switch $other:ident) => { false };

    (@type required $type:ty) => { $type };
    (@type default $type:ty) => { $type };
    (@type switch $type:ty) => { $type };
    (@type optional $type:ty) => { Option<$type> };

    (@value $given:expr, $name:expr, required($proposal:literal)) => {
        $given.ok_or_else(|| $crate::train::ask::row::missing($name, $proposal))?
    };
    (@value $given:expr, $name:expr, default($default:expr, $why:literal)) => { $given.unwrap_or($default) };
    (@value $given:expr, $name:expr, switch) => { $given.unwrap_or(false) };
    (@value $given:expr, $name:expr, optional($without:literal)) => { $given };

    (@default_text required($proposal:literal)) => { String::new() };
    (@default_text default($default:expr, $why:literal)) => { $crate::train::ask::row::default_text(&$default, $why) };
    (@default_text switch) => { String::new() };
    (@default_text optional($without:literal)) => { format!(" [default: {}]", $without) };

    (@row required($proposal:literal)) => { ("required", serde_json::Value::Null, $proposal) };
    (@row default($default:expr, $why:literal)) => { ("default", serde_json::json!($default), $why) };
    (@row switch) => { ("switch", serde_json::json!(false), "") };
    (@row optional($without:literal)) => { ("optional", serde_json::Value::Null, $without) };

    (@resumed same $values:ident, $name:ident, $value:expr) => {
        $values.insert(stringify!($name).to_string(), serde_json::json!($value).to_string());
    };
    (@resumed same_if_set $values:ident, $name:ident, $value:expr) => {
        if !$crate::train::ask::row::is_default(&$value) {
            $values.insert(stringify!($name).to_string(), serde_json::json!($value).to_string());
        }
    };
    (@resumed derived $values:ident, $name:ident, $value:expr) => {};
    (@resumed free $values:ident, $name:ident, $value:expr) => {};
}
pub(super) use option_rows;

/// A row of the table, for forms.
pub struct Row {
    /// As a recipe writes it.
    pub key: &'static str,
    pub heading: &'static str,
    pub placeholder: &'static str,
    pub help: String,
    /// The type of the value.
    pub of: &'static str,
    /// `required`, `default`, `optional` or `switch`.
    pub kind: &'static str,
    /// Null where there is none.
    pub default: serde_json::Value,
    /// Why it is the default, what happens without a value, or what to give.
    pub why: &'static str,
}

/// The lines of a row's help as one text, with what is taken when the option is left out.
pub(super) fn help(lines: &[&str], default: &str) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ") + default
}

/// How help states a default: ` [default: 16: why]`.
pub(super) fn default_text(value: &impl Serialize, why: &str) -> String {
    let value = match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(serde_json::Value::Number(number)) => match number.as_f64() {
            Some(small) if small != 0.0 && small.abs() < 1e-3 => format!("{small:e}"),
            Some(whole) if whole.fract() == 0.0 => format!("{whole}"),
            _ => number.to_string(),
        },
        other => other.map_or_else(|_| String::new(), |value| value.to_string()),
    };
    match why {
        "" => format!(" [default: {value}]"),
        _ => format!(" [default: {value}: {why}]"),
    }
}

/// `lora_r` as the command line has it: `--lora-r`.
pub(super) fn option_name(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

pub(super) fn missing(key: &str, proposal: &str) -> Error {
    Error::bad_input(option_name(key), "this option is required", proposal)
}

/// Is it what stands where nothing is given?
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// No value is wrong by itself.
pub(super) fn any<T>(_: &str, _: &T) -> Result<()> {
    Ok(())
}

/// A count that must not be zero.
pub(super) fn at_least_one<T: PartialEq + From<u8>>(option: &str, value: &T) -> Result<()> {
    match *value != T::from(0) {
        true => Ok(()),
        false => Err(Error::bad_input(option, "the value must be at least 1", "leave the option out to get its default")),
    }
}

/// Refuses `value` unless it `is` right; `range` says what is.
pub(super) fn within(option: &str, value: impl Display, is: bool, range: &str) -> Result<()> {
    match is {
        true => Ok(()),
        false => Err(Error::bad_input(option, format!("{value} is out of range"), format!("give a value {range}"))),
    }
}

pub(super) fn above_zero(option: &str, value: &f64, example: &str) -> Result<()> {
    within(option, value, value.is_finite() && *value > 0.0, &format!("above 0, such as {example}"))
}
