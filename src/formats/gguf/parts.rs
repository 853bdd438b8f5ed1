//! Models in several files: `name-00001-of-00003.gguf`, as `llama-gguf-split` writes them. Any part's name stands for the whole.

use std::path::{Path, PathBuf};

use super::container::{Container, MetaValue};
use crate::{Error, Result};

/// What to do about a model of which parts are missing or do not belong together.
const TOGETHER: &str =
    "Keep all parts of the model in one folder under their own names, or join them with llama-gguf-split --merge.";

/// The files of the model that `path` names, the first part first; `path` alone if its name is not that of a part.
///
/// # Errors
/// [`Error::BadInput`] naming the first part that is not there.
pub(super) fn paths(path: &Path) -> Result<Vec<PathBuf>> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((stem, count)) = part_of(name) else { return Ok(vec![path.to_owned()]) };
    let paths: Vec<PathBuf> =
        (1..=count).map(|number| path.with_file_name(format!("{stem}-{number:05}-of-{count:05}.gguf"))).collect();
    match paths.iter().find(|part| !part.is_file()) {
        None => Ok(paths),
        Some(missing) => {
            let problem = format!("is not there, but {name} is one part of {count}");
            Err(Error::bad_input(missing.display(), problem, TOGETHER))
        }
    }
}

/// The model's name without what tells its parts apart.
pub(in crate::formats) fn whole_name(name: &str) -> &str {
    part_of(name).map_or(name, |(stem, _)| stem)
}

/// `stem-00002-of-00003.gguf`: the stem and the number of parts; with or without `.gguf`.
fn part_of(name: &str) -> Option<(&str, usize)> {
    let name = name.strip_suffix(".gguf").unwrap_or(name);
    let (rest, count) = name.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| (text.len() == 5).then(|| text.parse::<usize>().ok()).flatten();
    let (number, count) = (digits(number)?, digits(count)?);
    (1..=count).contains(&number).then_some((stem, count))
}

/// That the parts are those of one model, in order: what each says of itself (`split.no`, `split.count`) and of all (`split.tensors.count`).
///
/// # Errors
/// [`Error::BadInput`] naming the part that says something else.
pub(super) fn check(paths: &[PathBuf], containers: &[Container]) -> Result<()> {
    let of = |container: &Container, key: &str| container.metadata.get(key).and_then(MetaValue::as_u64);
    let tensors: usize = containers.iter().map(|container| container.tensors.len()).sum();
    for (number, (path, container)) in paths.iter().zip(containers).enumerate() {
        let expected = [("split.count", containers.len()), ("split.no", number), ("split.tensors.count", tensors)]
            .map(|(key, n)| (key, n as u64));
        for (key, expected) in expected {
            // A file by itself need not speak of parts; what it says has to be true all the same.
            let found = of(container, key).unwrap_or(if containers.len() == 1 { expected } else { u64::MAX });
            if found != expected {
                let found = of(container, key).map_or("missing".to_owned(), |found| found.to_string());
                let problem = format!("is {found}, but {expected} would be right for part {} of {}", number + 1, paths.len());
                return Err(Error::bad_input(format!("{}: metadata key {key}", path.display()), problem, TOGETHER));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_are_known_from_others() {
        assert_eq!(part_of("m-00002-of-00003.gguf"), Some(("m", 3)));
        assert_eq!(whole_name("a-b-00001-of-00002"), "a-b");
        for other in ["m.gguf", "m-2-of-3.gguf", "m-00004-of-00003.gguf", "m-00000-of-00003.gguf", "00001-of-00003.gguf"] {
            assert_eq!(part_of(other), None, "{other}");
        }
    }
}
