//! The loss curve as a picture: one SVG file that needs nothing else, written beside `metrics.jsonl`.
//!
//! The thin line is the loss of each step, the thick one its exponential moving average (a window of a twentieth of the
//! run, at least 5 steps, without the bias towards the first value), the dots are the held-out loss. Shares of questions that are answered
//! right have a scale of their own, on the right: a thick line for all, a thin one for each group, or kind of check.

use super::metrics::StepMetrics;
use crate::generate::answers::{Share, Tally};
use crate::picture::{Axis, COLOURS, Picture};

/// The file's name inside the output folder.
pub const CURVE_FILE: &str = "loss.svg";

/// More points than this cannot be told apart; longer runs are averaged in groups.
const MOST_POINTS: usize = 1500;

const STEP_COLOUR: &str = "#9fb8d6";
const SMOOTH_COLOUR: &str = "#1f5fa8";
const EVAL_COLOUR: &str = "#c8501e";
const CHECK_COLOUR: &str = COLOURS[2];

/// The picture of a run. With no finite loss at all it shows the empty axes.
pub fn loss_curve(history: &[StepMetrics]) -> String {
    let train: Vec<(f64, f64)> = history.iter().map(|at| (at.step as f64, at.loss)).filter(|point| point.1.is_finite()).collect();
    let eval: Vec<(f64, f64)> =
        (history.iter()).filter_map(|at| Some((at.step as f64, at.eval_loss?))).filter(|point| point.1.is_finite()).collect();
    let smooth = moving_average(&train);
    let last_step = train.last().map_or(1.0, |point| point.0);
    // A loss is never below 0, and 0 is what it is measured against.
    let highest = train.iter().chain(&eval).map(|point| point.1).fold(0.0, f64::max);
    let y = Axis::over(0.0, if highest > 0.0 { highest } else { 1.0 }, 5.0);
    let x = Axis::over(0.0, last_step, 8.0).ending(last_step.max(1.0));
    let mut picture = Picture::new(x, y, "step", "loss (nats per supervised token)");
    picture.line(&thinned(&train), STEP_COLOUR, 1.0);
    picture.line(&thinned(&smooth), SMOOTH_COLOUR, 2.2);
    picture.line(&eval, EVAL_COLOUR, 1.2);
    eval.iter().for_each(|&point| picture.dot(point, EVAL_COLOUR));
    picture.legend("each step", STEP_COLOUR, 1.5);
    if let Some((_, loss)) = smooth.last() {
        picture.legend(&format!("smoothed, at the end {loss:.3}"), SMOOTH_COLOUR, 2.6);
    }
    if let Some((_, loss)) = eval.last() {
        picture.legend(&format!("held out, at the end {loss:.3}"), EVAL_COLOUR, 2.2);
    }
    add_checks(&mut picture, history);
    picture.finish()
}

/// The shares of questions that are answered right, where there are any.
fn add_checks(picture: &mut Picture, history: &[StepMetrics]) {
    let checked: Vec<(f64, &Tally)> = history.iter().filter_map(|at| Some((at.step as f64, at.check.as_ref()?))).collect();
    let Some((_, last)) = checked.last() else { return };
    picture.percents();
    let parts = |tally: &Tally| if tally.groups.is_empty() { tally.checks.clone() } else { tally.groups.clone() };
    let mut draw = |name: &str, width: f64, share: &dyn Fn(&Tally) -> Option<Share>| {
        let value = |&(step, tally): &(f64, &Tally)| Some((step, share(tally)?.value()?));
        let points: Vec<_> = checked.iter().filter_map(value).map(|point| picture.at_share(point)).collect();
        picture.line(&points, CHECK_COLOUR, width);
        points.iter().for_each(|&point| picture.dot(point, CHECK_COLOUR));
        if let Some(&point) = points.last() {
            picture.name(point, name);
        }
    };
    for name in parts(last).keys() {
        draw(name, 0.8, &|tally| parts(tally).get(name).copied());
    }
    draw("", 2.2, &|tally| Some(tally.all));
    if let Some(share) = last.all.value() {
        picture.legend(&format!("% of questions right, at the end {:.0}", 100.0 * share), CHECK_COLOUR, 2.2);
    }
}

/// Exponential moving average, divided by the weight it has gathered (as Adam corrects its moments), so the first value counts
/// no more than any other.
fn moving_average(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let decay = 1.0 - 1.0 / (points.len() as f64 / 20.0).max(5.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    (points.iter())
        .map(|&(step, loss)| {
            sum = decay * sum + (1.0 - decay) * loss;
            weight = decay * weight + (1.0 - decay);
            (step, sum / weight)
        })
        .collect()
}

/// At most [`MOST_POINTS`] points: the means of neighbours.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let group = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |points: &[(f64, f64)], of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
    points.chunks(group).map(|group| (mean(group, |point| point.0), mean(group, |point| point.1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(step: u64) -> Tally {
        let share = Share { right: (step / 2) as usize, of: step as usize };
        Tally { all: share, groups: [("two-hop".to_string(), share)].into(), ..Tally::default() }
    }

    fn history(steps: u64, loss: impl Fn(u64) -> f64) -> Vec<StepMetrics> {
        (1..=steps)
            .map(|step| StepMetrics {
                eval_loss: (step % 50 == 0).then(|| loss(step) + 0.2),
                check: (step % 50 == 0).then(|| tally(step)),
                ..StepMetrics::example(step, loss(step))
            })
            .collect()
    }

    #[test]
    fn the_average_of_a_constant_is_the_constant() {
        let points: Vec<(f64, f64)> = (0..400).map(|step| (step as f64, 2.5)).collect();
        assert!(moving_average(&points).iter().all(|point| (point.1 - 2.5).abs() < 1e-12));
    }

    #[test]
    fn any_run_gives_a_picture_without_a_number_that_is_none() {
        for steps in [0, 1, 2, 200, 20_000] {
            let svg = loss_curve(&history(steps, |step| 0.4 + 3.0 * (-(step as f64) / 60.0).exp()));
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{steps} steps");
            assert!(svg.len() < 200_000, "{steps} steps give {} bytes", svg.len());
        }
        let checked = loss_curve(&history(200, |_| 2.0));
        assert!(checked.contains("% of questions right, at the end 50<") && checked.contains(">two-hop<"), "{checked}");
        assert!(!loss_curve(&history(40, |_| 2.0)).contains("of questions right"), "nothing was asked");
        assert!(!loss_curve(&history(3, |_| f64::NAN)).contains("NaN"));
        assert!(!loss_curve(&history(3, |_| 0.0)).contains("NaN"));
    }
}
