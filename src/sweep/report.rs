//! Results as a table for people.

use std::fmt::Write;

use super::result::{ArmResult, Best, Figure, Results};
use super::run::Listed;
use crate::generate::answers::Tally;
use crate::picture::count;
use crate::terminal::{aligned, duration};

/// A column: its head, the figure it shows, and how a number of it is written.
struct Column {
    head: String,
    figure: String,
    written: fn(f64) -> String,
}

fn plain(value: f64) -> String {
    format!("{value:.4}")
}

fn percent(value: f64) -> String {
    format!("{:.1} %", 100.0 * value)
}

fn mebibytes(value: f64) -> String {
    format!("{:.0}", value / f64::from(1 << 20))
}

fn seconds(value: f64) -> String {
    if value < 1.0 { format!("{value:.3}") } else { format!("{value:.2}") }
}

/// The columns that some arm has a figure for.
fn columns(results: &Results) -> Vec<Column> {
    let column = |head: &str, figure: &str, written| Column { head: head.to_string(), figure: figure.to_string(), written };
    let mut all =
        vec![column("held-out loss", "held_out_loss", plain as fn(f64) -> String), column("check loss", "check_loss", plain)];
    let mut kinds: Vec<&String> = results.arms.iter().flat_map(|arm| arm.figures.keys()).collect();
    kinds.sort();
    kinds.dedup();
    for set in ["check", "test"] {
        all.extend((set == "test").then(|| column("test loss", "test_loss", plain)));
        let share = format!("{set}_share");
        all.push(column(&format!("{set} right"), &share, percent));
        // Where questions have groups, these tell more than the kinds of check.
        let parts = |of: &str| {
            let first = format!("{set}_{of}.");
            let column =
                |figure: &&String| figure.strip_prefix(&first).map(|part| column(&format!("{set} {part}"), figure, percent));
            kinds.iter().filter_map(column).collect::<Vec<_>>()
        };
        all.extend([parts("group"), parts("share")].into_iter().find(|columns| !columns.is_empty()).into_iter().flatten());
    }
    all.push(column("forgetting", "forgetting", plain));
    all.push(column("s a step", "seconds_a_step", seconds));
    all.push(column("peak MiB", "peak_bytes", mebibytes));
    let there = |column: &Column| results.arms.iter().any(|arm| arm.figures.contains_key(&column.figure));
    all.into_iter().filter(there).collect()
}

fn cell(figure: Option<&Figure>, written: fn(f64) -> String) -> String {
    match figure {
        None => "-".to_string(),
        Some(Figure { mean, spread: Some(spread), .. }) => format!("{} +- {}", written(*mean), written(*spread)),
        Some(Figure { mean, .. }) => written(*mean),
    }
}

/// All arms, one a line, and which is the best.
pub fn table(results: &Results) -> String {
    let columns = columns(results);
    let head = ["arm", "parameters", "rank", "seeds"].map(str::to_string).into_iter();
    let mut rows = vec![head.chain(columns.iter().map(|column| column.head.clone())).collect::<Vec<_>>()];
    let row = |arm: &ArmResult| {
        let (parameters, rank) = match arm.runs.is_empty() {
            true => ("-".to_string(), "-".to_string()),
            false => (arm.plan.parameters.to_string(), arm.plan.rank.to_string()),
        };
        let seeds = format!("{} of {}", arm.runs.len(), results.seeds.len());
        let figures = columns.iter().map(|column| cell(arm.figures.get(&column.figure), column.written));
        [arm.name.clone(), parameters, rank, seeds].into_iter().chain(figures).collect()
    };
    rows.extend(results.arms.iter().map(row));
    let mut text = aligned(&rows);
    for (base, measures) in &results.before {
        let said = [("check", &measures.check), ("test", &measures.test), ("general", &measures.general)];
        let said: Vec<String> = said
            .into_iter()
            .filter_map(|(name, measure)| {
                let measure = measure.as_ref()?;
                let said = |tally: &Tally| format!(", right {} of {} ({})", tally.all.right, tally.all.of, tally.parts());
                let answers = measure.answers.as_ref().map(said).unwrap_or_default();
                Some(format!("{name} loss {:.4}{answers}", measure.loss))
            })
            .collect();
        let _ = writeln!(text, "without an adapter ({base}): {}", said.join("; "));
    }
    for (name, why) in &results.impossible {
        let _ = writeln!(text, "impossible: {name}: {why}");
    }
    for arm in results.arms.iter().filter(|arm| !arm.diverged.is_empty()) {
        let _ = writeln!(text, "left the numbers: {}, seeds {:?}", arm.name, arm.diverged);
    }
    text + &best_line(results)
}

fn best_line(results: &Results) -> String {
    let Some(Best { arm, by, figure, next, clear }) = &results.best else {
        return "no arm has all its seeds yet, so none is chosen\n".to_string();
    };
    let written = if by.contains("share") { percent } else { plain };
    let than = match next {
        None => String::new(),
        Some((name, figure)) => {
            let how = match clear {
                Some(true) => "by more than twice the standard error",
                Some(false) => "which the spread over the seeds can explain",
                None => "with how much chance nobody knows: it takes two seeds or more",
            };
            format!("; next is {name} with {}, {how}", cell(Some(figure), written))
        }
    };
    let so_far = if results.complete { "" } else { " so far" };
    format!("best{so_far} by {}: {arm} with {}{than}\n", by.replace('_', " "), cell(Some(figure), written))
}

/// The arms before anything is trained; `rate` in floating-point operations a second, where it is known.
pub fn list(arms: &[Listed], seeds: usize, rate: Option<f64>) -> String {
    let head = ["arm", "parameters", "rank", "steps", "GPU MiB", "a run"].map(str::to_string).to_vec();
    let mut rows = vec![head];
    let (mut total, mut notes) = (0.0, String::new());
    for (number, arm) in arms.iter().enumerate() {
        let name = format!("{} {}", number + 1, arm.name);
        match &arm.plan {
            Ok(plan) => {
                total += plan.flops * seeds as f64;
                let time = rate.map_or(format!("{}FLOP", count(plan.flops)), |rate| duration(plan.flops / rate));
                rows.push(vec![
                    name,
                    plan.parameters.to_string(),
                    plan.rank.to_string(),
                    plan.steps.to_string(),
                    mebibytes(plan.planned_bytes as f64),
                    time,
                ]);
            }
            Err(why) => {
                rows.push(vec![name]);
                let _ = writeln!(notes, "impossible: {}: {why}", arm.name);
            }
        }
    }
    let time = rate.map_or(format!("{}FLOP", count(total)), |rate| duration(total / rate));
    format!(
        "{}{notes}{} arms, {seeds} seeds: {} runs, {time} of training in all\n",
        aligned(&rows),
        arms.len(),
        arms.len() * seeds
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::arms::Choose;
    use super::super::result::Plan;
    use super::*;

    #[test]
    fn the_table_has_a_column_for_each_figure_and_says_what_the_spread_allows() {
        let figure = |mean, spread| Figure { mean, spread: Some(spread), seeds: 2 };
        let arm = |name: &str, share| ArmResult {
            name: name.to_string(),
            varies: BTreeMap::new(),
            plan: Plan::default(),
            complete: true,
            diverged: Vec::new(),
            figures: BTreeMap::from([
                ("check_share".to_string(), figure(share, 0.1)),
                ("check_share.exact".to_string(), figure(share, 0.1)),
                ("forgetting".to_string(), figure(0.01234, 0.001)),
            ]),
            runs: Vec::new(),
        };
        let best = Best {
            arm: "mlp".to_string(),
            by: "check_share".to_string(),
            figure: figure(0.5, 0.1),
            next: Some(("attention".to_string(), figure(0.4, 0.1))),
            clear: Some(false),
        };
        let results = Results {
            format_version: 1,
            choose: Choose::Check,
            seeds: vec![1, 2],
            budget: None,
            complete: true,
            before: BTreeMap::new(),
            arms: vec![arm("mlp", 0.5), arm("attention", 0.4)],
            impossible: BTreeMap::from([("tiny".to_string(), "no room".to_string())]),
            best: Some(best),
        };
        let text = table(&results);
        let lines: Vec<&str> = text.lines().collect();
        let head: Vec<&str> = lines[0].split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(head, ["arm", "parameters", "rank", "seeds", "check right", "check exact", "forgetting"]);
        assert!(lines[1].contains("50.0 % +- 10.0 %") && lines[1].ends_with("0.0123 +- 0.0010"), "{text}");
        assert!(text.contains("impossible: tiny: no room"));
        assert!(text.ends_with("best by check share: mlp with 50.0 % +- 10.0 %; next is attention with 40.0 % +- 10.0 %, which the spread over the seeds can explain\n"), "{text}");
    }
}
