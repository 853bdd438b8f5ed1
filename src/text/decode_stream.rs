//! [`DecodeStream`]: text from token ids as they are generated.

use super::Tokenizer;

/// Turns ids into pieces of text whose concatenation is the decoded whole, each of them valid UTF-8.
///
/// A token can hold a part of a character only, and what a token looks like can depend on the one before it (the first
/// space of a SentencePiece text is dropped). So the stream always decodes the last tokens together with the new one, and
/// emits what has become certain: all but a tail of U+FFFD, which may still turn into a character.
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// The tokens that are decoded together. The first of them begins a character.
    window: Vec<u32>,
    /// How many of them ended in a whole character when they came.
    settled: usize,
    /// How many bytes of the window's text are emitted.
    emitted: usize,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, window: Vec::new(), settled: 0, emitted: 0 }
    }

    /// Takes one id; returns the text that is now certain, if any.
    pub fn push(&mut self, id: u32) -> Option<String> {
        // A special token that is left out stands for no text, and must not come between the bytes of a character either.
        if self.skip_special && self.tokenizer.is_special(id) {
            return None;
        }
        self.window.push(id);
        let text = self.text();
        let certain = text.trim_end_matches('\u{FFFD}');
        let piece = certain.get(self.emitted..).filter(|piece| !piece.is_empty()).map(str::to_string);
        self.emitted = self.emitted.max(certain.len());
        if certain.len() == text.len() {
            // The text ends with a whole character: what came before the last such moment is no longer needed.
            self.window.drain(..self.settled);
            self.settled = self.window.len();
            self.emitted = self.text().len();
        }
        piece
    }

    /// What still waits when no more tokens come: an unfinished character, shown as U+FFFD.
    pub fn finish(self) -> Option<String> {
        self.text().get(self.emitted..).filter(|piece| !piece.is_empty()).map(str::to_string)
    }

    fn text(&self) -> String {
        self.tokenizer.decode(&self.window, self.skip_special).unwrap_or_default()
    }
}
