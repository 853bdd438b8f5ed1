//! How far a long piece of work is: a bar where standard error is a terminal, now and then a line where it is not.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use graftling::terminal::say;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// Silence before a line, and between two: what is done sooner needs none.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Shows how much of something is done.
pub struct Counter {
    what: &'static str,
    bytes: bool,
    bar: ProgressBar,
    /// When the last line was written, or the work begun; `None` on a terminal.
    said: Option<Mutex<Instant>>,
}

impl Counter {
    /// Counts pieces.
    pub fn of(what: &'static str) -> Self {
        Self::new(what, false)
    }

    /// Counts bytes.
    pub fn of_bytes(what: &'static str) -> Self {
        Self::new(what, true)
    }

    fn new(what: &'static str, bytes: bool) -> Self {
        let template = if bytes { "{prefix} {bar:28} {bytes}/{total_bytes}" } else { "{prefix} {bar:28} {pos}/{len}" };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let said = (!std::io::stderr().is_terminal()).then(|| Mutex::new(Instant::now()));
        Self { what, bytes, bar: ProgressBar::new(0).with_style(style).with_prefix(what), said }
    }

    /// So many of so many are done.
    pub fn at(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        let Some(said) = &self.said else { return };
        let Ok(mut said) = said.try_lock() else { return };
        if said.elapsed() < BETWEEN_LINES {
            return;
        }
        *said = Instant::now();
        match self.bytes {
            true => say(&format!("{}: {} of {}", self.what, HumanBytes(done), HumanBytes(total))),
            false => say(&format!("{}: {done} of {total}", self.what)),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
