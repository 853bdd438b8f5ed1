//! Which tokens end the turns that an adapter has learned, in a file beside it.
//!
//! A conversation is often learned with a mark that the base model does not know as its end (`<|im_end|>` on a base whose end is
//! `</s>`). The adapter then writes this mark, and whoever generates with it has to stop there.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::beside::beside;
use crate::files;
use crate::{Error, Result};

/// The file's name in the adapter's folder.
pub const FILE: &str = "end_of_turn.json";

/// Bytes that the file may have.
const LARGEST: u64 = 1 << 20;

/// A token that ends a turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndOfTurn {
    pub id: u32,
    /// As the vocabulary writes it: an id alone could be any token of another model.
    pub token: String,
}

#[derive(Serialize, Deserialize)]
struct Content {
    end_of_turn: Vec<EndOfTurn>,
}

/// What the file of these tokens says; without tokens there is no file.
pub fn content(ends: &[EndOfTurn]) -> Option<String> {
    let text = serde_json::to_string_pretty(&Content { end_of_turn: ends.to_vec() }).ok();
    text.filter(|_| !ends.is_empty()).map(|text| format!("{text}\n"))
}

/// Reads the file of an adapter's folder. No file gives no tokens.
///
/// # Errors
/// Bad input: the file cannot be read or says something else.
pub fn read(folder: &Path) -> Result<Vec<EndOfTurn>> {
    let Some(path) = beside(folder, FILE) else { return Ok(Vec::new()) };
    let bad = |problem: String| Error::bad_input(path.display(), problem, "correct or remove the file");
    let text = files::read_to_string(&path, LARGEST).map_err(|error| bad(format!("cannot be read: {error}")))?;
    let content: Content = serde_json::from_str(&text).map_err(|error| bad(format!("is not a list of end tokens: {error}")))?;
    Ok(content.end_of_turn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_also_for_a_checkpoint() {
        let out = tempfile::tempdir().unwrap();
        let ends = vec![EndOfTurn { id: 3, token: "<|turn|>".to_string() }];
        assert_eq!(read(out.path()).unwrap(), []);
        assert_eq!(content(&[]), None);
        std::fs::write(out.path().join(FILE), content(&ends).unwrap()).unwrap();
        assert_eq!(read(out.path()).unwrap(), ends);
        assert_eq!(read(&out.path().join("checkpoint-7")).unwrap(), ends);
        assert_eq!(read(&out.path().join("other")).unwrap(), []);
        std::fs::write(out.path().join(FILE), "{}").unwrap();
        assert!(read(out.path()).unwrap_err().to_string().contains(FILE));
    }
}
