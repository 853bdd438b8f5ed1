//! The rotation that an adapter was trained with, where `--rope-scaling` made it another than the model's, in a file beside the adapter.

use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use super::beside::beside;
use crate::architecture::RopeOverride;
use crate::files;
use crate::{Error, Result};

/// The file's name in the adapter's folder.
pub const FILE: &str = "rope_scaling.json";

/// Bytes that the file may have.
const LARGEST: u64 = 1 << 16;

#[derive(Deserialize)]
struct Content {
    rope_scaling: RopeOverride,
}

/// What the file of this scaling says; the model's own rotation has none.
pub fn content(scaling: Option<RopeOverride>) -> Option<String> {
    Some(format!("{}\n", json!({"rope_scaling": scaling?.to_string()})))
}

/// The scaling to use: what is given, else what the adapter in `folder` was trained with.
///
/// # Errors
/// Bad input: the file cannot be read or says something else, or what is given is not what the adapter was trained with.
pub fn chosen(given: Option<RopeOverride>, folder: Option<&Path>) -> Result<Option<RopeOverride>> {
    let Some(path) = folder.and_then(|folder| beside(folder, FILE)) else { return Ok(given) };
    let bad = |problem: String| Error::bad_input(path.display(), problem, "correct or remove the file");
    let text = files::read_to_string(&path, LARGEST).map_err(|error| bad(format!("cannot be read: {error}")))?;
    let Content { rope_scaling } = serde_json::from_str(&text).map_err(|error| bad(format!("is no rope scaling: {error}")))?;
    match given {
        Some(given) if given != rope_scaling => {
            let problem = format!("is {given}, but the adapter was trained with {rope_scaling}");
            Err(Error::bad_input("--rope-scaling", problem, "leave the option out: the adapter remembers"))
        }
        _ => Ok(Some(rope_scaling)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_remembers_its_rotation() {
        let out = tempfile::tempdir().unwrap();
        let yarn = Some(RopeOverride::Yarn(4.0));
        let linear = Some(RopeOverride::Linear(2.0));
        assert_eq!(chosen(linear, Some(out.path())).unwrap(), linear);
        assert_eq!(content(None), None);
        assert_eq!(chosen(None, Some(out.path())).unwrap(), None);
        std::fs::write(out.path().join(FILE), content(yarn).unwrap()).unwrap();
        assert_eq!(chosen(None, Some(out.path())).unwrap(), yarn);
        assert_eq!(chosen(yarn, Some(&out.path().join("checkpoint-3"))).unwrap(), yarn);
        assert!(chosen(linear, Some(out.path())).unwrap_err().to_string().contains("yarn:4"));
        std::fs::write(out.path().join(FILE), r#"{"rope_scaling": "yarn"}"#).unwrap();
        assert!(chosen(None, Some(out.path())).unwrap_err().to_string().contains(FILE));
    }
}
