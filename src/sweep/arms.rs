//! From a sweep file to its arms: pure, no model is opened.
//!
//! ```toml
//! seeds = [1, 2, 3]                 # each arm is trained once with each
//! budget = 1_000_000                # optional: each arm gets the largest rank that trains no more numbers than this
//! check_data = "check.jsonl"        # the best arm is chosen by it
//! test_data = "test.jsonl"          # reported, never chosen by
//! general_data = "general.jsonl"    # its loss before and after tells what was forgotten
//! choose = "check"                  # or "loss": by the loss on held-out data
//! max_new_tokens = 64               # of an answer to the check and test data at most
//!
//! [base]                            # keys of a training recipe that all arms have
//! model = "model"
//! data = "train.jsonl"
//!
//! [axes]                            # every combination of these values is an arm
//! target_modules = ["attention", "mlp"]
//! learning_rate = [1e-4, 3e-4]
//!
//! [[arm]]                           # with axes, each of these is crossed with them; without, it is an arm by itself
//! name = "v-only"
//! target_modules = "v_proj"
//! ```

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use crate::files;
use crate::train::ask::recipe::{Written, one_or_many_paths};
use crate::train::options::Recipe;
use crate::{Error, Result};

/// By what the best arm is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choose {
    /// The share of `check_data` that is answered right; where it has nothing to answer, its loss.
    Check,
    /// The loss on `check_data`, or without any on the recipe's held-out data.
    Loss,
}

/// A sweep file, read and checked as far as that is possible without the model.
#[derive(Clone, Debug)]
pub struct SweepFile {
    pub path: PathBuf,
    /// As it was read.
    pub text: String,
    pub seeds: Vec<u64>,
    /// Most trained parameters of an arm, which then has the largest rank that stays within them.
    pub budget: Option<usize>,
    pub check_data: Vec<PathBuf>,
    pub test_data: Vec<PathBuf>,
    pub general_data: Vec<PathBuf>,
    pub choose: Choose,
    /// Tokens of an answer to the check and test data at most.
    pub max_new_tokens: usize,
    /// In the order of the file, the last axis fastest.
    pub arms: Vec<Arm>,
}

/// One of the runs that are compared, but for its seed.
#[derive(Clone, Debug)]
pub struct Arm {
    /// From what varies; it is the name of a folder too.
    pub name: String,
    /// What the arm has of its own, by key, as TOML writes it.
    pub varies: BTreeMap<String, String>,
    /// All keys, those of `[base]` too; without seed and output folder.
    pub recipe: Recipe,
}

/// More arms than anyone reads.
const MOST_ARMS: usize = 4096;
/// What a sweep file may have.
const KEYS: [&str; 10] =
    ["seeds", "budget", "check_data", "test_data", "general_data", "choose", "max_new_tokens", "base", "axes", "arm"];
/// Tokens of an answer at most, where the file does not say.
const MAX_NEW_TOKENS: usize = 64;
/// Keys of a recipe that the sweep gives itself, and how.
const GIVEN: [(&str, &str); 4] = [
    ("seed", "list the seeds at the top of the file: seeds = [1, 2, 3]"),
    ("out", "give --out DIR to `graftling sweep`; each run has a folder of its own in it"),
    ("resume", "leave it out: a sweep goes on with what it finds"),
    ("overwrite", "leave it out: a sweep goes on with what it finds"),
];
/// Keys that say how large an adapter is, which a budget decides.
const SIZES: [&str; 5] = ["lora_r", "rank_pattern", "bottleneck_size", "reduction_factor", "init_adapter"];

/// The top of the file, without the places.
#[derive(Deserialize)]
struct Top {
    seeds: Option<Vec<u64>>,
    budget: Option<usize>,
    #[serde(default, deserialize_with = "one_or_many_paths")]
    check_data: Option<Vec<PathBuf>>,
    #[serde(default, deserialize_with = "one_or_many_paths")]
    test_data: Option<Vec<PathBuf>>,
    #[serde(default, deserialize_with = "one_or_many_paths")]
    general_data: Option<Vec<PathBuf>>,
    choose: Option<Choose>,
    max_new_tokens: Option<usize>,
    #[serde(default)]
    base: Table,
}

/// A key with one of its values, and how the value was written.
#[derive(Clone, Debug)]
struct Setting {
    key: String,
    value: Value,
    written: String,
}

impl SweepFile {
    /// Reads a sweep file. Paths in it are relative to the current folder, as on the command line.
    ///
    /// # Errors
    /// Bad input, with the line: a file that cannot be read, broken TOML, an unknown key (with the nearest known one), a value of the wrong
    /// type, a key that the sweep gives itself, two arms of one name, too many arms.
    pub fn read(path: &Path) -> Result<Self> {
        let text = files::read_to_string(path, files::DESCRIPTION).map_err(|error| {
            let proposal = "give --config the path of a TOML file, as docs/sweep.md describes it";
            Error::bad_input(path.display(), format!("cannot read the sweep: {error}"), proposal)
        })?;
        Self::from_toml(&text, path)
    }

    /// Reads a sweep from TOML text; `path` only names it in errors.
    ///
    /// # Errors
    /// As [`SweepFile::read`].
    pub fn from_toml(text: &str, path: &Path) -> Result<Self> {
        let reader = Reader { written: Written { text, path } };
        let table = reader.written.parse()?;
        let table = table.get_ref();
        reader.written.check_keys(table, &KEYS.map(String::from))?;
        let top: Top = toml::from_str(text).map_err(|error| {
            let proposal = "docs/sweep.md describes each key of a sweep";
            Error::bad_input(reader.written.place(error.span()), error.message().trim(), proposal)
        })?;
        if let Some(base) = table.get("base") {
            reader.check_entries(base, &top.base)?;
        }
        let axes = table.get("axes").map(|axes| reader.axes(axes)).transpose()?.unwrap_or_default();
        let own = table.get("arm").map(|arms| reader.own_arms(arms)).transpose()?.unwrap_or_default();
        let file = Self {
            path: path.to_path_buf(),
            text: text.to_string(),
            seeds: top.seeds.unwrap_or_else(|| vec![0]),
            budget: top.budget,
            check_data: top.check_data.unwrap_or_default(),
            test_data: top.test_data.unwrap_or_default(),
            general_data: top.general_data.unwrap_or_default(),
            choose: top.choose.unwrap_or(Choose::Check),
            max_new_tokens: top.max_new_tokens.unwrap_or(MAX_NEW_TOKENS),
            arms: arms(path, &top.base, &axes, own)?,
        };
        file.check(&top.base)?;
        Ok(file)
    }

    /// What does not hang on one line.
    fn check(&self, base: &Table) -> Result<()> {
        let refused = |problem: &str, proposal: &str| Err(Error::bad_input(self.path.display(), problem, proposal));
        let mut seeds = self.seeds.clone();
        seeds.sort_unstable();
        seeds.dedup();
        if seeds.is_empty() || seeds.len() < self.seeds.len() {
            return refused("`seeds` needs one seed or more, each once", "write seeds = [1, 2, 3]");
        }
        if self.max_new_tokens == 0 {
            return refused("`max_new_tokens` is 0, and nothing can be answered", "leave it out for 64");
        }
        let Some(budget) = self.budget else { return Ok(()) };
        if budget == 0 {
            return refused("`budget` is 0, and nothing can be trained", "give the parameters that each arm may train");
        }
        for arm in &self.arms {
            if SIZES.iter().any(|key| arm.varies.contains_key(*key) || base.contains_key(*key)) {
                let problem = format!("arm `{}` says how large its adapter is, and `budget` does too", arm.name);
                let proposal = format!("leave the budget out, or these keys: {}", SIZES.join(", "));
                return Err(Error::bad_input(self.path.display(), problem, proposal));
            }
        }
        Ok(())
    }

    /// The arm that `--arm` means: its number, from 1, or its name.
    ///
    /// # Errors
    /// Bad input, with the names that there are.
    pub fn arm(&self, wanted: &str) -> Result<usize> {
        let number =
            wanted.parse::<usize>().ok().filter(|number| (1..=self.arms.len()).contains(number)).map(|number| number - 1);
        let named = self.arms.iter().position(|arm| arm.name == wanted);
        named.or(number).ok_or_else(|| {
            let names: Vec<String> = self.arms.iter().zip(1..).map(|(arm, number)| format!("{number} {}", arm.name)).collect();
            Error::bad_input(
                "--arm",
                format!("`{wanted}` is no arm of {}", self.path.display()),
                format!("there are: {}", names.join(", ")),
            )
        })
    }
}

/// Reads parts of the file.
struct Reader<'a> {
    written: Written<'a>,
}

impl Reader<'_> {
    /// The table that a value has to be.
    fn table<'t, 'i>(&self, value: &'t Spanned<DeValue<'i>>, name: &str) -> Result<&'t DeTable<'i>> {
        value.get_ref().as_table().ok_or_else(|| {
            Error::bad_input(
                self.written.place(Some(value.span())),
                format!("`{name}` is no table"),
                format!("write [{name}], and its keys below"),
            )
        })
    }

    /// That a recipe may have these entries, `values` by the places in `table`.
    fn check_entries(&self, table: &Spanned<DeValue>, values: &Table) -> Result<()> {
        let table = self.table(table, "base")?;
        self.check_names(table)?;
        for (key, value) in table {
            let name: &str = key.get_ref();
            if let Some(plain) = values.get(name) {
                Recipe::check_entry(self.written, name, plain, value.span())?;
            }
        }
        Ok(())
    }

    /// That these are keys of a recipe, and none that the sweep gives itself.
    fn check_names(&self, table: &DeTable) -> Result<()> {
        for key in table.keys() {
            if let Some((name, proposal)) = GIVEN.iter().find(|(name, _)| *name == key.get_ref()) {
                let problem = format!("`{name}` is given by the sweep itself");
                return Err(Error::bad_input(self.written.place(Some(key.span())), problem, proposal));
            }
        }
        self.written.check_keys(table, &Recipe::keys())
    }

    fn setting(&self, key: &str, value: &Spanned<DeValue>) -> Result<Setting> {
        let plain = self.plain(value.span())?;
        Recipe::check_entry(self.written, key, &plain, value.span())?;
        Ok(Setting { key: key.to_string(), value: plain, written: self.written.text[value.span()].to_string() })
    }

    /// The value that is written there.
    fn plain(&self, span: Range<usize>) -> Result<Value> {
        let value = toml::de::ValueDeserializer::parse(&self.written.text[span.clone()]).and_then(Value::deserialize);
        value
            .map_err(|error| Error::bad_input(self.written.place(Some(span)), error.message().trim(), "write it as a TOML value"))
    }

    /// The axes in the order of the file, each with its values.
    fn axes(&self, axes: &Spanned<DeValue>) -> Result<Vec<Vec<Setting>>> {
        let table = self.table(axes, "axes")?;
        self.check_names(table)?;
        let mut found = Vec::new();
        for (key, values) in table {
            let name: &str = key.get_ref();
            let list = values.get_ref().as_array().filter(|values| !values.is_empty()).ok_or_else(|| {
                let place = self.written.place(Some(values.span()));
                Error::bad_input(
                    place,
                    format!("the axis `{name}` needs a list of values"),
                    format!("write {name} = [A, B], or put it under [base]"),
                )
            })?;
            let settings = list.iter().map(|value| self.setting(name, value)).collect::<Result<Vec<_>>>()?;
            found.push((key.span().start, settings));
        }
        found.sort_by_key(|(start, _)| *start);
        Ok(found.into_iter().map(|(_, settings)| settings).collect())
    }

    /// The `[[arm]]` tables: names and settings.
    fn own_arms(&self, arms: &Spanned<DeValue>) -> Result<Vec<(String, Vec<Setting>)>> {
        let list = arms.get_ref().as_array().ok_or_else(|| {
            let place = self.written.place(Some(arms.span()));
            Error::bad_input(place, "`arm` is no list of tables", "write [[arm]], and its name and keys below, once for each arm")
        })?;
        let mut found = Vec::new();
        for arm in list.iter() {
            let table = self.table(arm, "arm")?;
            let name = table.get("name").and_then(|name| name.get_ref().as_str());
            let Some(name) = name.filter(|name| folder_name(name) == *name && !name.is_empty()) else {
                let place = self.written.place(Some(table.get("name").map_or(arm.span(), Spanned::span)));
                let problem = "an arm needs a name of letters, digits and `-_.+=`, which is the name of its folder too";
                return Err(Error::bad_input(place, problem, "write name = \"mlp-only\" below [[arm]]"));
            };
            let mut settings = table.clone();
            settings.remove("name");
            self.check_names(&settings)?;
            let mut entries: Vec<_> = settings.iter().collect();
            entries.sort_by_key(|(key, _)| key.span().start);
            let settings = entries.into_iter().map(|(key, value)| self.setting(key.get_ref(), value));
            found.push((name.to_string(), settings.collect::<Result<Vec<_>>>()?));
        }
        Ok(found)
    }
}

/// Every `[[arm]]` with every combination of the axes.
fn arms(path: &Path, base: &Table, axes: &[Vec<Setting>], own: Vec<(String, Vec<Setting>)>) -> Result<Vec<Arm>> {
    let refused = |problem: String, proposal: &str| Err(Error::bad_input(path.display(), problem, proposal));
    let combinations = axes.iter().try_fold(own.len().max(1), |count, axis| count.checked_mul(axis.len())).unwrap_or(usize::MAX);
    if combinations > MOST_ARMS {
        return refused(
            format!("the axes have more than {MOST_ARMS} combinations"),
            "take values away, or sweep one axis after the other",
        );
    }
    let own = if own.is_empty() { vec![(String::new(), Vec::new())] } else { own };
    let mut arms: Vec<Arm> = Vec::with_capacity(combinations);
    for (own_name, settings) in &own {
        for combination in product(axes) {
            let labels = (!own_name.is_empty())
                .then(|| own_name.clone())
                .into_iter()
                .chain(combination.iter().map(|setting| label(setting)));
            let labels: Vec<String> = labels.collect();
            let name = if labels.is_empty() { "base".to_string() } else { labels.join("_") };
            let of_arm: Vec<&Setting> = settings.iter().chain(combination).collect();
            let mut entries = base.clone();
            entries.extend(of_arm.iter().map(|setting| (setting.key.clone(), setting.value.clone())));
            let recipe = Recipe::from_entries(&format!("{}, arm `{name}`", path.display()), entries)?;
            let varies = of_arm.iter().map(|setting| (setting.key.clone(), setting.written.clone())).collect();
            if arms.iter().any(|arm| arm.name.eq_ignore_ascii_case(&name)) {
                return refused(
                    format!("two arms have the name `{name}`"),
                    "give each [[arm]] a name of its own, and each axis a value once",
                );
            }
            arms.push(Arm { name, varies, recipe });
        }
    }
    Ok(arms)
}

/// All combinations, the last axis fastest.
fn product(axes: &[Vec<Setting>]) -> Vec<Vec<&Setting>> {
    let mut combinations = vec![Vec::new()];
    for axis in axes {
        let longer =
            |combination: &Vec<_>| axis.iter().map(|setting| [&combination[..], &[setting]].concat()).collect::<Vec<_>>();
        combinations = combinations.iter().flat_map(longer).collect();
    }
    combinations
}

/// What tells a setting from the others of its axis, short: `mlp`, `r-8`, `lr-2e-4`, `layers-20-29`.
fn label(setting: &Setting) -> String {
    let key = match setting.key.as_str() {
        "target_modules" | "adapter_method" => "",
        "lora_r" => "r-",
        "lora_alpha" => "alpha-",
        "learning_rate" => "lr-",
        other => &format!("{other}-"),
    };
    let value = setting.written.trim_matches(|character| "[]\"' ".contains(character));
    folder_name(&format!("{key}{value}"))
}

/// Text as the name of a folder on every system.
fn folder_name(text: &str) -> String {
    let plain = |character: char| if character.is_ascii_alphanumeric() || "-_.+=".contains(character) { character } else { '-' };
    let mut name: String = text.replace(['"', '\'', ' '], "").replace(',', "+").chars().map(plain).collect();
    name.truncate(120);
    let trimmed = name.trim_matches('.');
    trimmed.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "[base]\nmodel = \"m\"\ndata = \"d.jsonl\"\nmax_steps = 9\n";

    fn sweep(text: &str) -> Result<SweepFile> {
        SweepFile::from_toml(text, Path::new("sweep.toml"))
    }

    fn names(file: &SweepFile) -> Vec<&str> {
        file.arms.iter().map(|arm| arm.name.as_str()).collect()
    }

    #[test]
    fn the_product_of_the_axes_is_the_arms_and_the_last_axis_is_the_fastest() {
        let file = sweep(&format!(
            "seeds = [1, 2]\n{BASE}[axes]\ntarget_modules = [\"mlp\", [\"q_proj\", \"v_proj\"]]\nlearning_rate = [1e-4, 3e-4]\n"
        ))
        .unwrap();
        assert_eq!(names(&file), ["mlp_lr-1e-4", "mlp_lr-3e-4", "q_proj+v_proj_lr-1e-4", "q_proj+v_proj_lr-3e-4"]);
        let last = &file.arms[3].recipe;
        assert_eq!((last.learning_rate, last.max_steps, last.model.as_deref()), (Some(3e-4), Some(9), Some("m")));
        assert_eq!(last.target_modules, Some(vec!["q_proj".to_string(), "v_proj".to_string()]));
        assert_eq!(file.arms[3].varies["learning_rate"], "3e-4");
        assert_eq!((file.arm("2").unwrap(), file.arm("mlp_lr-3e-4").unwrap()), (1, 1));
        assert!(file.arm("5").unwrap_err().to_string().contains("4 q_proj+v_proj_lr-3e-4"));
    }

    #[test]
    fn arms_of_their_own_are_crossed_with_the_axes_and_win_over_the_base() {
        let own = "[[arm]]\nname = \"early\"\nlayers = \"0-9\"\n[[arm]]\nname = \"late\"\nlayers = \"20-29\"\nmax_steps = 3\n";
        let file = sweep(&format!("{BASE}{own}")).unwrap();
        assert_eq!((names(&file), &file.seeds), (vec!["early", "late"], &vec![0]));
        assert_eq!((file.arms[0].recipe.max_steps, file.arms[1].recipe.max_steps), (Some(9), Some(3)));
        let crossed = sweep(&format!("{BASE}[axes]\nlora_r = [1, 4]\n{own}")).unwrap();
        assert_eq!(names(&crossed), ["early_r-1", "early_r-4", "late_r-1", "late_r-4"]);
        assert_eq!(crossed.arms[2].recipe.layers.as_deref(), Some("20-29"));
        assert_eq!(names(&sweep(BASE).unwrap()), ["base"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let starts = |text: &str, expected: &str| {
            let error = sweep(text).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{error}");
            assert_eq!(error.exit_code(), 2);
        };
        starts("sedes = [1]\n", "sweep.toml:1: unknown key `sedes`\n  did you mean `seeds`?");
        starts("[base]\nlearning-rate = 1e-3\n", "sweep.toml:2: unknown key `learning-rate`\n  did you mean `learning_rate`?");
        starts("[axes]\n\nlora_rr = [1]\n", "sweep.toml:3: unknown key `lora_rr`");
        starts("[axes]\nlora_r = [\n1,\n\"many\"]\n", "sweep.toml:4: ");
        starts("[axes]\nlora_r = 4\n", "sweep.toml:2: the axis `lora_r` needs a list");
        starts("[base]\nlora_r = \"x\"\n", "sweep.toml:2: ");
        starts("[[arm]]\nname = \"a\"\nlearning_rate = true\n", "sweep.toml:3: ");
        starts("[[arm]]\nlora_r = 4\n", "sweep.toml:1: an arm needs a name");
        starts("[[arm]]\nname = \"../up\"\n", "sweep.toml:2: an arm needs a name");
        starts("[base]\nseed = 3\n", "sweep.toml:2: `seed` is given by the sweep itself");
        starts("[base]\nout = \"x\"\n", "sweep.toml:2: `out` is given");
        starts("a = \n", "sweep.toml:1: ");
        starts("seeds = [1, 1]\n", "sweep.toml: `seeds` needs");
        starts("choose = \"test\"\n", "sweep.toml:1: ");
        starts("budget = 5\n[axes]\nlora_r = [1, 2]\n", "sweep.toml: arm `r-1` says how large");
        starts("[[arm]]\nname = \"a\"\n[[arm]]\nname = \"A\"\n", "sweep.toml: two arms have the name `A`");
        starts(
            &format!("[axes]\nmax_steps = {:?}\nepochs = {:?}\n", (1..=80).collect::<Vec<_>>(), (1..=80).collect::<Vec<_>>()),
            "sweep.toml: the axes have more than",
        );
    }

    /// A key that a recipe gets later is one of a sweep at once.
    #[test]
    fn every_key_of_a_recipe_may_vary() {
        for key in Recipe::keys().into_iter().filter(|key| GIVEN.iter().all(|(given, _)| given != key)) {
            let error = sweep(&format!("[axes]\n{key} = [{{}}]\n")).unwrap_err().to_string();
            assert!(error.starts_with("sweep.toml:2: ") && !error.contains("unknown"), "{key}: {error}");
        }
    }
}
