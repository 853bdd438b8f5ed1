//! What a person sees of a run: a bar where standard error is a terminal, plain lines where it is not.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::eva::Looked;
use super::metrics::StepMetrics;
use crate::generate::answers::Share;
use crate::terminal::say;

/// Time between two plain lines; a log file needs no more.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Shows steps as they are done.
#[derive(Debug)]
pub struct Progress {
    view: View,
    total_steps: u64,
    started: Instant,
    /// Steps done when this process took over.
    first_step: u64,
}

#[derive(Debug)]
enum View {
    Bar(ProgressBar),
    Lines { last: Option<Instant> },
    Hidden,
}

impl Progress {
    /// A bar if standard error is a terminal, else lines.
    pub fn on_stderr(total_steps: u64, first_step: u64) -> Self {
        let view = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(total_steps).with_position(first_step);
            let style = ProgressStyle::with_template("{bar:28} {pos}/{len}  {msg}  {eta} left");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(500));
            View::Bar(bar)
        } else {
            View::Lines { last: None }
        };
        Self { view, total_steps, started: Instant::now(), first_step }
    }

    /// Shows nothing.
    pub fn hidden() -> Self {
        Self { view: View::Hidden, total_steps: 0, started: Instant::now(), first_step: 0 }
    }

    /// Shows a step that has been done.
    pub fn step(&mut self, metrics: &StepMetrics) {
        let StepMetrics { step, loss, tokens_per_second, aux_loss, .. } = *metrics;
        let balance = aux_loss.map_or_else(String::new, |aux_loss| format!("  aux loss {aux_loss:.4}"));
        match &mut self.view {
            View::Bar(bar) => {
                bar.set_message(format!("loss {loss:.4}{balance}  {tokens_per_second:.0} tokens/s"));
                bar.set_position(step);
            }
            View::Lines { last } => {
                let due = last.is_none_or(|last| last.elapsed() >= BETWEEN_LINES) || step == self.total_steps;
                if due {
                    *last = Some(Instant::now());
                    let a_step = self.started.elapsed().as_secs_f64() / step.saturating_sub(self.first_step).max(1) as f64;
                    let left = Duration::from_secs((a_step * self.total_steps.saturating_sub(step) as f64) as u64);
                    say(&format!(
                        "step {step}/{}  loss {loss:.4}{balance}  {tokens_per_second:.0} tokens/s  {} left",
                        self.total_steps,
                        HumanDuration(left)
                    ));
                }
            }
            View::Hidden => {}
        }
        self.measured(metrics);
    }

    /// Shows how far a start is that looks at the data.
    pub fn looking(&mut self, looked: &Looked) {
        match &mut self.view {
            View::Bar(bar) => bar.set_message(looked.to_string()),
            View::Lines { last } => {
                if last.is_none_or(|last| last.elapsed() >= BETWEEN_LINES) {
                    *last = Some(Instant::now());
                    say(&looked.to_string());
                }
            }
            View::Hidden => {}
        }
    }

    /// Shows what was measured after a step.
    pub fn measured(&self, metrics: &StepMetrics) {
        let step = metrics.step;
        if let Some(eval_loss) = metrics.eval_loss {
            self.note(&format!("step {step}: held-out loss {eval_loss:.4}, perplexity {:.2}", eval_loss.exp()));
        }
        if let Some(check) = &metrics.check {
            let Share { right, of } = check.all;
            self.note(&format!("step {step}: {right} of {of} questions answered right ({})", check.parts()));
        }
    }

    /// Says something between the steps.
    pub fn note(&self, text: &str) {
        match &self.view {
            View::Bar(bar) => bar.suspend(|| say(text)),
            View::Lines { .. } => say(text),
            View::Hidden => {}
        }
    }

    /// Ends the bar, leaving its last state on the screen.
    pub fn finish(&self) {
        if let View::Bar(bar) = &self.view {
            bar.abandon();
        }
    }
}
