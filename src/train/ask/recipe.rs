//! Recipe files: the options of a run as TOML, `key = value`, one a line.

use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use serde::{Deserialize, Serialize};

use super::options::Recipe;
use super::row::Row;
use crate::files;
use crate::nearest::nearest;
use crate::{Error, Result};

/// `target_modules` in a recipe: `"all-linear"`, `"q_proj,v_proj"` or `["q_proj", "v_proj"]`.
pub(super) fn one_or_many<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a string or a list of strings")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(Some(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(names) => names.split(',').map(|name| name.trim().to_string()).collect(),
        OneOrMany::Many(names) => names,
    }))
}

/// `data` in a recipe: one path, or a list of paths.
pub(crate) fn one_or_many_paths<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Vec<PathBuf>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a path or a list of paths")]
    enum OneOrMany {
        One(PathBuf),
        Many(Vec<PathBuf>),
    }
    Ok(Some(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(path) => vec![path],
        OneOrMany::Many(paths) => paths,
    }))
}

/// Gives [`Recipe`] a clap command of its own, from which the names of all keys are read.
#[derive(Parser)]
struct RecipeKeys {
    #[command(flatten)]
    _recipe: Recipe,
}

/// A key of a recipe, as a form asks for it.
#[derive(Clone, Debug, Serialize)]
pub struct Field {
    pub key: &'static str,
    pub heading: &'static str,
    pub placeholder: &'static str,
    pub help: String,
    /// `switch`, `choice`, `whole`, `real`, `path`, `list` or `text`.
    pub kind: &'static str,
    pub required: bool,
    /// What is taken where nothing is given; null where that is no one value.
    pub default: serde_json::Value,
    /// Why that is the default, what happens without a value, or what to give.
    pub why: &'static str,
    /// The values that it can have, if these are few.
    pub choices: Vec<String>,
}

impl Recipe {
    /// Reads a recipe file (TOML). Paths in it are relative to the current folder, as on the command line.
    ///
    /// # Errors
    /// Bad input, with the line: a file that cannot be read, broken TOML, an unknown key (with the nearest known one), a
    /// value of the wrong type.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = files::read_to_string(path, files::DESCRIPTION).map_err(|error| {
            Error::bad_input(path.display(), format!("cannot read the recipe: {error}"), "give --config the path of a TOML file")
        })?;
        Self::from_toml(&text, path)
    }

    /// Reads a recipe from TOML text; `path` only names it in errors.
    ///
    /// # Errors
    /// As [`Recipe::from_file`].
    pub fn from_toml(text: &str, path: &Path) -> Result<Self> {
        let written = Written { text, path };
        written.check_keys(written.parse()?.get_ref(), &Self::keys())?;
        toml::from_str(text).map_err(|error| written.wrong_value(error.span(), &error))
    }

    /// A recipe of some entries of a file; each has been checked by [`Recipe::check_entry`].
    ///
    /// # Errors
    /// Bad input, at `place`.
    pub fn from_entries(place: &str, entries: toml::Table) -> Result<Self> {
        entries.try_into().map_err(|error: toml::de::Error| Error::bad_input(place, error.message().trim(), SEE_HELP))
    }

    /// That a recipe may have `value` under `key`, which stands at `span` of a file.
    ///
    /// # Errors
    /// Bad input, with the line: a value of the wrong type.
    pub fn check_entry(written: Written, key: &str, value: &toml::Value, span: Range<usize>) -> Result<()> {
        let alone = toml::Table::from_iter([(key.to_string(), value.clone())]);
        alone.try_into::<Self>().map(drop).map_err(|error| written.wrong_value(Some(span), &error))
    }

    /// All keys of a recipe, with what a form needs to ask for each.
    pub fn fields() -> Vec<Field> {
        let command = RecipeKeys::command();
        let choices = |key: &str| -> Vec<String> {
            let argument = command.get_arguments().find(|argument| argument.get_id() == key);
            let values = argument.map_or_else(Vec::new, clap::Arg::get_possible_values);
            values.iter().map(|value| value.get_name().to_string()).collect()
        };
        let field = |row: Row| {
            let choices = choices(row.key);
            let kind = match row.of {
                _ if row.kind == "switch" => "switch",
                _ if !choices.is_empty() => "choice",
                "usize" | "u64" => "whole",
                "f64" => "real",
                "PathBuf" => "path",
                of if of.starts_with("Vec") => "list",
                _ => "text",
            };
            Field {
                key: row.key,
                heading: row.heading,
                placeholder: row.placeholder,
                help: row.help,
                kind,
                required: row.kind == "required",
                default: row.default,
                why: row.why,
                choices,
            }
        };
        Self::rows().into_iter().map(field).collect()
    }

    /// All keys of a recipe file, in the order of the help text.
    pub fn keys() -> Vec<String> {
        RecipeKeys::command().get_arguments().map(|argument| argument.get_id().to_string()).filter(|id| id != "help").collect()
    }
}

/// What is told of a wrong value.
const SEE_HELP: &str = "see `graftling train --help` for the values of each option";

/// A TOML file that a person wrote: what it takes to say where something in it stands.
#[derive(Clone, Copy, Debug)]
pub struct Written<'a> {
    pub text: &'a str,
    /// Only names it in errors.
    pub path: &'a Path,
}

impl<'a> Written<'a> {
    /// File and line, counted from 1, of a part of the text.
    pub fn place(&self, span: Option<Range<usize>>) -> String {
        let Some(span) = span else { return self.path.display().to_string() };
        let before = self.text.as_bytes().iter().take(span.start);
        format!("{}:{}", self.path.display(), before.filter(|&&byte| byte == b'\n').count() + 1)
    }

    /// The table with the place of every key and value.
    ///
    /// # Errors
    /// Bad input, with the line: it is no TOML.
    pub fn parse(&self) -> Result<toml::Spanned<toml::de::DeTable<'a>>> {
        toml::de::DeTable::parse(self.text).map_err(|error| {
            let proposal = "write it as TOML: key = value, one a line";
            Error::bad_input(self.place(error.span()), error.message().trim(), proposal)
        })
    }

    /// That a table has no other keys than these.
    ///
    /// # Errors
    /// Bad input, with the line and the nearest known key.
    pub fn check_keys(&self, table: &toml::de::DeTable, known: &[String]) -> Result<()> {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if !known.iter().any(|known| known == name) {
                let proposal = match nearest(name, known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known keys: {}", known.join(", ")),
                };
                return Err(Error::bad_input(self.place(Some(key.span())), format!("unknown key `{name}`"), proposal));
            }
        }
        Ok(())
    }

    fn wrong_value(&self, span: Option<Range<usize>>, error: &toml::de::Error) -> Error {
        Error::bad_input(self.place(span), error.message().trim(), SEE_HELP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::byte_size::ByteSize;
    use crate::session::prefix_cache::{PrefixCacheMode, PrefixCacheType};
    use crate::storage::DType;
    use crate::train::ask::options::*;
    use crate::train::budget::RecomputeOption;
    use crate::train::schedule::ScheduleKind;

    fn recipe(text: &str) -> Result<Recipe> {
        Recipe::from_toml(text, Path::new("recipe.toml"))
    }

    #[test]
    fn recipe_and_command_line_have_the_same_keys_and_the_command_line_wins() {
        let memory = recipe("recompute = 5\nmemory_budget = \"2GiB\"").unwrap();
        assert_eq!((memory.recompute, memory.memory_budget), (Some(RecomputeOption::Layers(5)), Some(ByteSize(2 << 30))));
        assert_eq!(recipe("recompute = \"all\"").unwrap().recompute, Some(RecomputeOption::All));
        let cache = recipe("prefix_cache = \"disk\"\nprefix_cache_size = \"2GiB\"\nprefix_cache_type = \"bf16\"").unwrap();
        assert_eq!((cache.prefix_cache, cache.prefix_cache_size), (Some(PrefixCacheMode::Disk), Some(ByteSize(2 << 30))));
        assert_eq!(cache.prefix_cache_type, Some(PrefixCacheType::Bf16));
        let file = recipe("lora_r = 4\nlearning_rate = 1e-3\ntarget_modules = [\"q_proj\", \"v_proj\"]\nno_shuffle = true\nlr_schedule = \"linear\"").unwrap();
        let line =
            RecipeKeys::try_parse_from(["train", "--lora-r", "8", "--no-shuffle=false", "--weights", "bf16"]).unwrap()._recipe;
        let both = line.or(file);
        assert_eq!(both.lora_r, Some(8));
        assert_eq!(both.learning_rate, Some(1e-3));
        assert_eq!(both.no_shuffle, Some(false));
        assert_eq!(both.weights, Some(DType::BF16));
        assert_eq!(both.lr_schedule, Some(ScheduleKind::Linear));
        assert_eq!(both.target_modules, Some(vec!["q_proj".to_string(), "v_proj".to_string()]));
        for key in Recipe::keys() {
            let one = recipe(&format!("{key} = {{}}")).map(|_| ()).unwrap_err().to_string();
            assert!(!one.contains("unknown"), "{key} is an option and no key: {one}");
        }
    }

    #[test]
    fn a_form_asks_for_every_key_as_the_command_line_does() {
        let fields = Recipe::fields();
        assert_eq!(fields.iter().map(|field| field.key.to_string()).collect::<Vec<_>>(), Recipe::keys());
        let field = |key: &str| fields.iter().find(|field| field.key == key).unwrap();
        assert_eq!((field("learning_rate").kind, &field("learning_rate").default), ("real", &serde_json::json!(2e-4)));
        assert!(field("model").required && field("data").kind == "list" && field("resume").kind == "switch");
        assert!(field("lr_schedule").choices.contains(&"cosine".to_string()));
        assert_eq!(field("lr_schedule").default, "cosine");
        assert!(field("weights").choices.contains(&"nf4".to_string()));
        assert!(fields.iter().all(|field| field.help.len() > 10));
    }

    #[test]
    fn unknown_key_names_its_line_and_the_nearest_key() {
        let error = recipe("lora_r = 4\n\nlearning-rate = 1e-3\n").unwrap_err();
        assert_eq!(error.to_string(), "recipe.toml:3: unknown key `learning-rate`\n  did you mean `learning_rate`?");
        assert_eq!(error.exit_code(), 2);
        assert!(recipe("completely_different = 1").unwrap_err().to_string().contains("known keys: model, data"));
        assert!(recipe("a = 1\nb = \n").unwrap_err().to_string().starts_with("recipe.toml:2:"));
        assert!(recipe("model = \"m\"\nlora_r = \"many\"").unwrap_err().to_string().starts_with("recipe.toml:2:"));
    }

    #[test]
    fn help_states_the_defaults_that_the_code_has() {
        let help = RecipeKeys::command().render_long_help().to_string();
        let stated = |option: &str, value: &str| {
            let text = help.split(&format!("--{option} <")).nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default();
            let text = text.replace(['\n', ' '], "");
            assert!(text.contains(&format!("[default:{value}")), "--{option} does not state its default {value}: {text}");
        };
        // Those of the adapter's shape stand in words in the table; the others are written from the value itself.
        stated("lora-r", &TrainOptions::LORA_R.to_string());
        stated("lora-alpha", &TrainOptions::LORA_ALPHA.to_string());
        stated("target-modules", TrainOptions::TARGET_MODULES);
        stated("learning-rate", "2e-4:");
        stated("lr-schedule", "cosine]");
        stated("max-grad-norm", "1]");
        stated("weight-decay", "0:");
        assert!(help.contains("--no-shuffle[=<BOOL>]"), "a switch needs no value: {help}");
    }
}
