//! What becomes of records that are longer than a row.

use std::ops::Range;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What to do with a record of more than `--max-length` tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LongRecords {
    /// Keep the beginning
    #[default]
    Cut,
    /// Make several rows of a record of which all is learned (`text`, `input_ids` without -100); cut others: a later part of an
    /// answer, without its question, would teach something else
    Split,
    /// Leave the record out
    Drop,
}

/// Consecutive pieces of at most `most` (2 or more) of `tokens` tokens, without overlap. The last has at least two where that can be:
/// a token alone is predicted by nothing.
pub(super) fn pieces(tokens: usize, most: usize) -> Vec<Range<usize>> {
    let mut ends: Vec<usize> = (1..tokens.div_ceil(most)).map(|piece| piece * most).collect();
    if tokens % most == 1
        && most > 2
        && let Some(last) = ends.last_mut()
    {
        *last -= 1;
    }
    ends.push(tokens);
    let starts = std::iter::once(0).chain(ends.clone());
    starts.zip(ends).map(|(start, end)| start..end).collect()
}

#[cfg(test)]
mod tests {
    use super::pieces;

    #[test]
    fn pieces_follow_one_another_and_none_is_a_single_token() {
        assert_eq!(pieces(10, 4), [0..4, 4..8, 8..10]);
        assert_eq!(pieces(8, 4), [0..4, 4..8]);
        assert_eq!(pieces(9, 4), [0..4, 4..7, 7..9]);
        assert_eq!(pieces(3, 2), [0..2, 2..3], "no other way");
        assert_eq!(pieces(5, 9).as_slice(), std::slice::from_ref(&(0..5)));
    }
}
