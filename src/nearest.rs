//! The known word that somebody meant: for errors about a slip of the hand.

/// The word of `known` most like `written`, if it is near enough to be a slip; case and `-` for `_` do not count.
pub fn nearest<'a>(written: &str, known: &'a [impl AsRef<str>]) -> Option<&'a str> {
    let plain = |word: &str| word.to_lowercase().replace('-', "_");
    // A word longer than any known one is unlike all of them; its length needs no exact answer.
    let written: String = plain(written).chars().take(64).collect();
    let distance = |word: &str| strsim::damerau_levenshtein(&written, &plain(word));
    let (distance, near) = known.iter().map(AsRef::as_ref).map(|word| (distance(word), word)).min()?;
    (distance <= 1 + near.len() / 4).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_is_found_and_another_word_is_not() {
        let known = ["learning_rate", "lora_r", "q_proj", "attention"];
        assert_eq!(nearest("learning-rate", &known), Some("learning_rate"));
        assert_eq!(nearest("lora_R", &known), Some("lora_r"));
        assert_eq!(nearest("qproj", &known), Some("q_proj"));
        assert_eq!(nearest("atention", &known), Some("attention"));
        assert_eq!(nearest("completely_different", &known), None);
        assert_eq!(nearest("x", &[] as &[&str]), None);
    }
}
