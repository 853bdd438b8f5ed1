//! The choice of kernels as a table: `graftling bench --tuning`.

use std::fmt::Write;

use graftling::Result;
use graftling::plan::autotune::{Choice, Decided, LEAST_SHARE};
use serde_json::{Value, json};

/// Prints what was chosen for each class of products, with the times of all candidates.
///
/// # Errors
/// Failed: standard output cannot be written.
pub fn print(choices: &[Choice], as_json: bool) -> Result<()> {
    match as_json {
        true => super::print_json(&json(choices)),
        false => super::print(&text(choices)),
    }
}

fn json(choices: &[Choice]) -> Value {
    let classes = choices.iter().map(|Choice { class, share, rule, decided, entry }| {
        json!({
            "class": class.to_string(), "share": share, "choice": entry.choice, "rule": rule, "decided": said(*decided),
            "nanoseconds": entry.nanoseconds,
        })
    });
    classes.collect()
}

fn said(decided: Decided) -> &'static str {
    match decided {
        Decided::Now => "now",
        Decided::Before => "before",
        Decided::OutOfTime => "out of time",
    }
}

fn text(choices: &[Choice]) -> String {
    let mut text =
        format!("{:<28} {:>6}  {:<23} milliseconds of each candidate, the fixed rule's first\n", "product", "share", "chosen");
    for Choice { class, share, rule, entry, .. } in choices {
        let mut times: Vec<(&String, &u64)> = entry.nanoseconds.iter().collect();
        times.sort_by_key(|(id, time)| (*id != rule, **time));
        let times: Vec<String> = times.iter().map(|(id, time)| format!("{id} {:.3}", **time as f64 * 1e-6)).collect();
        let times = if times.is_empty() { said(Decided::OutOfTime).to_string() } else { times.join(", ") };
        let mark = if entry.choice == *rule { "" } else { " *" };
        let class = class.to_string();
        let chosen = format!("{}{mark}", entry.choice);
        let _ = writeln!(text, "{class:<28} {:>5.1}%  {chosen:<23} {times}", 100.0 * share);
    }
    let others = 100.0 * (1.0 - choices.iter().map(|choice| choice.share).sum::<f64>());
    let _ = writeln!(
        text,
        "\n* not what the fixed rule takes. The other {others:.1}% of the estimated time have one kernel, or less than {:.1}% each.",
        100.0 * LEAST_SHARE
    );
    text
}
