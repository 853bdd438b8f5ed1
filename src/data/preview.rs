//! [`preview()`]: the first records as the model will see them, for `train --dry-run`.

use super::{Dataset, Example};
use crate::text::Tokenizer;

/// How many tokens of a record are shown; more than fits on a screen hides the mistake that one looks for.
const MAX_TOKENS: usize = 600;

/// Begins each line of a record.
const MARGIN: &str = "\n   ";

/// How the three kinds of text look.
struct Marks {
    supervised: (&'static str, &'static str),
    context: (&'static str, &'static str),
    special: (&'static str, &'static str),
}

const COLOR: Marks =
    Marks { supervised: ("\x1b[1;32m", "\x1b[0m"), context: ("\x1b[2m", "\x1b[0m"), special: ("\x1b[7m", "\x1b[27m") };
const PLAIN: Marks = Marks { supervised: ("⟦", "⟧"), context: ("", ""), special: ("⟨", "⟩") };
/// Brackets that stand for something, and are escaped where the data has them.
const BRACKETS: [char; 4] = ['⟦', '⟧', '⟨', '⟩'];

/// The first `n` examples, then the report. Supervised tokens are green on a terminal (`color`) and in ⟦brackets⟧ without
/// colour; special tokens are written out, on a terminal in reverse and otherwise in ⟨brackets⟩, so that one that was cut into
/// text can be seen. `⏎` is a line end. Control characters of the data, and these brackets, are shown as escapes, so that a
/// record cannot drive the terminal or look like what it is not.
pub fn preview(dataset: &Dataset, tokenizer: &Tokenizer, n: usize, color: bool) -> String {
    let marks = if color { &COLOR } else { &PLAIN };
    let mut out = String::new();
    let legend = if color { "\x1b[1;32mgreen\x1b[0m" } else { "⟦in these brackets⟧" };
    let special = format!("{}special tokens{}", marks.special.0, marks.special.1);
    out += &format!("What the model will read, all of it; {special} are one token each, all else is text.\n");
    out += &format!("What it learns to write is {legend}; all else is only read. ⏎ marks a line end.\n\n");
    for (number, example) in dataset.examples.iter().take(n).enumerate() {
        let (tokens, supervised) = (example.input_ids.len(), example.supervised_tokens());
        let line = example.line;
        out += &format!(
            "── record {} ({}): {tokens} tokens, {supervised} of them learned\n",
            number + 1,
            dataset.report.named(&[line])
        );
        out += &shown(example, tokenizer, marks);
        if dataset.report.truncated.contains(&line) {
            out += &format!("   (cut here: the record is longer than --max-length {})\n", dataset.report.max_length);
        }
        if dataset.report.neutralised.contains(&line) {
            out += "   (a message contains the name of a special token: it is read as plain characters)\n";
        }
        if dataset.report.unended.contains(&line) {
            out += "   (no end token is learned here: the model will not learn to stop)\n";
        }
        if dataset.report.rewritten_turns.contains(&line) {
            out += "   (the chat template rewrites an earlier assistant turn: that turn is read, not learned)\n";
        }
        out.push('\n');
    }
    out += &dataset.report.to_string();
    out.push('\n');
    out
}

fn shown(example: &Example, tokenizer: &Tokenizer, marks: &Marks) -> String {
    let mut canvas = Canvas { marks, out: String::from(&MARGIN[1..]), supervised: None };
    let mut stream = tokenizer.decode_stream_with_special();
    let count = example.input_ids.len().min(MAX_TOKENS);
    for (at, &id) in example.input_ids.iter().take(count).enumerate() {
        // The first token is predicted by nothing. A part of a character appears with the token that completes it.
        let supervised = at > 0 && example.labels[at].is_some();
        if let Some(piece) = stream.push(id) {
            canvas.write(&piece, supervised, tokenizer.is_special(id));
        }
    }
    if let Some(piece) = stream.finish() {
        let supervised = count > 1 && example.labels[count - 1].is_some();
        canvas.write(&piece, supervised, false);
    }
    canvas.turn(None);
    if count < example.input_ids.len() {
        canvas.out += &format!(" … and {} more tokens", example.input_ids.len() - count);
    }
    let shown = canvas.out.strip_suffix(MARGIN).unwrap_or(&canvas.out);
    format!("{shown}\n")
}

/// Characters that show nothing, or reverse the direction of the text around them. Those that join letters of some scripts, and emoji,
/// are text.
fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

struct Canvas<'a> {
    marks: &'a Marks,
    out: String,
    /// What is being written, if anything is.
    supervised: Option<bool>,
}

impl Canvas<'_> {
    /// Closes the running mark and opens the one of `next`, if they differ.
    fn turn(&mut self, next: Option<bool>) {
        if self.supervised == next {
            return;
        }
        let pair = |supervised| if supervised { self.marks.supervised } else { self.marks.context };
        let (close, open) = (self.supervised.map_or("", |now| pair(now).1), next.map_or("", |next| pair(next).0));
        self.out += close;
        self.out += open;
        self.supervised = next;
    }

    fn write(&mut self, piece: &str, supervised: bool, special: bool) {
        if special {
            self.turn(Some(supervised));
            self.out += self.marks.special.0;
        }
        for character in piece.chars() {
            self.turn(Some(supervised));
            match character {
                '\n' => {
                    // Marks do not run over the margin.
                    self.out.push('⏎');
                    self.turn(None);
                    self.out += MARGIN;
                }
                '\t' => self.out.push('⇥'),
                bracket if BRACKETS.contains(&bracket) => self.out.extend(bracket.escape_unicode()),
                control if control.is_control() || is_invisible(control) => self.out.extend(control.escape_unicode()),
                plain => self.out.push(plain),
            }
        }
        if special {
            self.out += self.marks.special.1;
        }
    }
}
