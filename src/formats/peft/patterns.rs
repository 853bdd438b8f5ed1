//! Which modules a key of PEFT's configuration means: names are compared as PEFT compares them.
//!
//! A module's *path* is its whole name in the model: `model.layers.3.self_attn.q_proj`.

use std::collections::HashSet;

use regex::{Regex, RegexBuilder};

/// Bytes that a compiled pattern may take; one of a few names takes a hundredth of it.
const LARGEST: usize = 1 << 18;

/// Regular expressions that one key may have; names alone are none.
const MOST: usize = 200;

/// Values by pattern: `rank_pattern`, `alpha_pattern`. The first key that matches counts, and a key matches a path that ends with it, after
/// a dot or as a whole: as the regular expression `(.*\.)?(key)$` from the path's beginning.
#[derive(Clone, Debug, Default)]
pub struct Patterns<T> {
    entries: Vec<(String, T)>,
    compiled: Vec<End>,
}

/// How a path may end.
#[derive(Clone, Debug)]
enum End {
    /// In a name, in which a dot stands for any character.
    Named(String),
    Like(Regex),
}

impl End {
    fn of(key: &str) -> Result<Self, String> {
        match key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.') {
            true => Ok(Self::Named(key.to_owned())),
            false => compiled(&format!(r"^(?:.*\.)?(?:{key})$"), key).map(Self::Like),
        }
    }

    fn is_match(&self, path: &str) -> bool {
        match self {
            Self::Like(regex) => regex.is_match(path),
            Self::Named(name) => {
                let mut left = path.chars().rev();
                let ends = name.chars().rev().all(|c| left.next().is_some_and(|found| found == c || c == '.'));
                ends && left.next().is_none_or(|before| before == '.')
            }
        }
    }
}

impl<T: PartialEq> PartialEq for Patterns<T> {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl<T> Patterns<T> {
    /// Patterns in the order in which they are tried.
    ///
    /// # Errors
    /// Names the first key that is no regular expression.
    pub fn new(entries: Vec<(String, T)>) -> Result<Self, String> {
        let compiled = entries.iter().map(|(key, _)| End::of(key)).collect::<Result<Vec<_>, _>>()?;
        match compiled.iter().filter(|end| matches!(end, End::Like(_))).count() {
            count if count > MOST => Err(format!("has {count} regular expressions; {MOST} are read")),
            _ => Ok(Self { entries, compiled }),
        }
    }

    /// The value for a module.
    pub fn get(&self, path: &str) -> Option<&T> {
        let at = self.compiled.iter().position(|pattern| pattern.is_match(path))?;
        Some(&self.entries[at].1)
    }

    /// The value for all of these modules, which the experts of a layer are; `usual` where no key matches.
    ///
    /// # Errors
    /// What is wrong: one of them has another value than those before it.
    pub fn of_all(&self, paths: &[String], usual: T) -> Result<T, String>
    where
        T: Copy + PartialEq,
    {
        let of = |path: &str| self.get(path).copied().unwrap_or(usual);
        let first = paths.first().map_or(usual, |path| of(path));
        match paths.iter().find(|path| of(path) != first) {
            Some(other) => {
                Err(format!("gives {other} another value than the experts before it; graftling has one for all of a layer"))
            }
            None => Ok(first),
        }
    }

    /// Keys and values in their order.
    pub fn entries(&self) -> &[(String, T)] {
        &self.entries
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The first key that no path matches: mostly a name that was spelled wrong.
    pub fn unused<'p>(&self, paths: impl Iterator<Item = &'p str> + Clone) -> Option<&str> {
        let unused = |(pattern, _): &(&End, &(String, T))| !paths.clone().any(|path| pattern.is_match(path));
        self.compiled.iter().zip(&self.entries).find(unused).map(|(_, (key, _))| key.as_str())
    }
}

/// What to do where experts of a layer have different ranks or alphas.
pub const ALIKE: &str =
    r"give all experts of a layer one rank and one alpha, by keys such as gate_proj or experts\.\d+\.gate_proj";

/// `target_modules` and `exclude_modules`.
#[derive(Clone, Debug, PartialEq)]
pub enum Modules {
    /// Names, each of which means all paths that end with it after a dot.
    Listed(Vec<String>),
    /// A regular expression for whole paths.
    Pattern(String),
}

impl Modules {
    /// A test of paths.
    ///
    /// # Errors
    /// A pattern that is no regular expression, or uses what only a backtracking engine has (look-around, back references).
    pub fn matcher(&self) -> Result<Box<dyn Fn(&str) -> bool + '_>, String> {
        match self {
            Self::Listed(names) => {
                // There may be one for each expert.
                let names: HashSet<&str> = names.iter().map(String::as_str).collect();
                Ok(Box::new(move |path| ends(path).any(|end| names.contains(end))))
            }
            Self::Pattern(pattern) => {
                let regex = compiled(&format!("^(?:{pattern})$"), pattern)?;
                Ok(Box::new(move |path| regex.is_match(path)))
            }
        }
    }
}

/// The names that mean a path in a list: itself, and what follows a dot in it.
pub(super) fn ends(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |end| end.split_once('.').map(|(_, end)| end))
}

/// A pattern that Python and this program read alike.
pub(super) fn compiled(whole: &str, key: &str) -> Result<Regex, String> {
    let problem =
        || format!("`{key}` is no regular expression, or one with look-around, back references or what Python reads otherwise");
    // A quantifier that gives nothing back, and sets within sets, are something else in Python.
    let otherwise = ["*+", "++", "?+", "}+", "&&", "~~", "--"].iter().any(|part| key.contains(part)) || has_nested_set(key);
    let regex = || RegexBuilder::new(whole).size_limit(LARGEST).build().ok();
    (!otherwise).then(regex).flatten().ok_or_else(problem)
}

/// Whether a set of characters has a bracket in it that opens a set in Rust's syntax, and is a character in Python's.
fn has_nested_set(pattern: &str) -> bool {
    let (mut inside, mut escaped) = (false, false);
    for character in pattern.chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' if inside => return true,
            '[' => inside = true,
            ']' => inside = false,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_that_ends_the_path_counts() {
        let entries = [("q_proj", 1), ("layers.1.self_attn.q_proj", 2), (r"layers\.[02]\.mlp\..*", 3), ("proj", 4)];
        let patterns = Patterns::new(entries.map(|(key, value)| (key.to_owned(), value)).into()).unwrap();
        assert_eq!(patterns.get("model.layers.1.self_attn.q_proj"), Some(&1));
        assert_eq!(patterns.get("model.layers.2.mlp.down_proj"), Some(&3));
        assert_eq!(patterns.get("model.layers.12.mlp.down_proj"), None);
        assert_eq!(patterns.get("q_proj"), Some(&1));
        assert_eq!(patterns.get("model.layers.0.self_attn.kq_proj"), None);
        let paths = ["model.layers.1.self_attn.q_proj"];
        assert_eq!(patterns.unused(paths.into_iter()), Some(r"layers\.[02]\.mlp\..*"));
        assert!(Patterns::new(vec![("q_(".to_owned(), 1)]).is_err());
    }

    #[test]
    fn lists_compare_ends_and_patterns_whole_paths() {
        let listed = Modules::Listed(vec!["self_attn.q_proj".to_owned(), "up_proj".to_owned()]);
        let matches = listed.matcher().unwrap();
        assert!(matches("model.layers.0.self_attn.q_proj") && matches("up_proj") && !matches("model.layers.0.mlp.gate_up_proj"));
        let pattern = Modules::Pattern(r".*\.(q|v)_proj".to_owned());
        let matches = pattern.matcher().unwrap();
        assert!(matches("model.layers.0.self_attn.q_proj") && !matches("model.layers.0.self_attn.q_proj.x"));
        assert!(Modules::Pattern("(?!x).*".to_owned()).matcher().is_err());
    }
}
